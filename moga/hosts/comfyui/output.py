"""Where a node's files go: numbered names in ComfyUI's output folder, and never outside it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from PIL import Image

_FORBIDDEN = re.compile(r'[<>:"|?*]')  # on Windows


@dataclass(frozen=True)
class OutputName:
    """A numbered name in the output folder, and the subfolder as the frontend calls it.

    The name is taken: its ``latent`` exists, empty as yet.
    """

    folder: Path
    stem: str
    subfolder: str

    @property
    def latent(self) -> Path:
        return self.folder / f"{self.stem}.latent"

    def file(self, ending: str) -> Path:
        """``MoGA_00001_`` and ``ending``."""
        return self.folder / f"{self.stem}{ending}"


def reserve_name(prefix: str, width: int, height: int) -> OutputName:
    """Take the next free numbered name for ``prefix``, as ComfyUI's own Save nodes count.

    Makes the folder. Another ComfyUI with the same output folder can't take the same name. Raises
    ValueError for a prefix that ``prefix_problem`` refuses, OSError when nothing can be written.
    """
    if problem := prefix_problem(prefix):
        raise ValueError(problem)
    output = folder_paths.get_output_directory()
    while True:
        try:
            folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
                prefix, output, width, height
            )
            taken = OutputName(Path(folder), f"{name}_{counter:05}_", subfolder)
            with suppress(FileExistsError):  # somebody took it just now
                taken.latent.touch(exist_ok=False)
                return taken
        except OSError as error:
            raise OSError(
                f"Nothing can be written under {output} ({error}); make that folder writable and "
                "queue again. What was sampled is still in ComfyUI's cache."
            ) from error


def check_space(folder: Path, needed: int) -> None:
    """Raise OSError when the disk of ``folder`` has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The disk of {folder} has {free / 1e6:,.0f} MB free and about {needed / 1e6:,.0f} MB "
            "are needed; free some space and queue again. What was sampled is still in ComfyUI's "
            "cache."
        )


def prefix_problem(prefix: str) -> str | None:
    """Why ``prefix`` can't name a file in the output folder, in one sentence; None when it can."""
    if os.path.basename(os.path.normpath(prefix)).strip() in ("", ".", ".."):
        return f"filename_prefix {prefix!r} names no file; type a name such as video/MoGA."
    if "%date:" in prefix:
        return (
            f"filename_prefix {prefix!r} has a date that ComfyUI fills in for its own nodes only; "
            "write %year%-%month%-%day% instead."
        )
    if found := _FORBIDDEN.search(prefix):
        return (
            f"filename_prefix {prefix!r} has a {found[0]}, which file names cannot hold "
            "everywhere; leave it out."
        )
    output = folder_paths.get_output_directory()
    if not _is_within(output, os.path.join(output, os.path.normpath(prefix))):
        return (
            f"filename_prefix {prefix!r} leaves ComfyUI's output folder; use a name, or a folder "
            "and a name such as video/MoGA."
        )
    return None


def save_still(picture: Image.Image, stem: str) -> str:
    """Write a picture for the node to show to ComfyUI's temporary folder. Returns its name."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stem}{secrets.token_hex(4)}.png"
    picture.save(folder / name)
    return name


def folder_problem() -> str | None:
    """Why nothing can be written in the output folder, in one sentence; None when it can."""
    output = folder_paths.get_output_directory()
    if os.path.exists(output) and not (os.path.isdir(output) and os.access(output, os.W_OK)):
        return f"ComfyUI's output folder {output} can't be written to; change its permissions."
    return None


def _is_within(folder: str, path: str) -> bool:
    # Newer versions follow symbolic links here; the answer has to be the one they will give.
    core = getattr(folder_paths, "is_within_directory", None)
    if core is not None:
        return core(folder, os.path.dirname(path))
    try:
        return os.path.commonpath((folder, os.path.abspath(os.path.dirname(path)))) == folder
    except ValueError:  # another drive
        return False
