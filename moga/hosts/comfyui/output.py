"""Where a node's files go: numbered names in ComfyUI's output folder, and never outside it."""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import folder_paths
from PIL import Image

from .fields import fill_dates, fill_widgets

_FORBIDDEN = re.compile(r'[<>:"|?*]')  # on Windows
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control, and halves of characters
_LONGEST_ENDING = "_00001_shot_001.partial.mp4"
_COUNTED = "characters" if os.name == "nt" else "bytes"


@dataclass(frozen=True)
class OutputName:
    """A numbered name in the output folder, and the subfolder as the frontend calls it.

    The name is taken: its `latent` exists, empty as yet.
    """

    folder: Path
    stem: str
    subfolder: str

    @property
    def latent(self) -> Path:
        return self.folder / f"{self.stem}.latent"

    def file(self, ending: str) -> Path:
        """`MoGA_00001_` and `ending`."""
        return self.folder / f"{self.stem}{ending}"


def reserve_name(prefix: str, width: int, height: int) -> OutputName:
    """Take the next free numbered name for `prefix`, as ComfyUI's own Save nodes count.

    Fills in dates, and makes the folder. Another ComfyUI with the same output folder can't take the
    same name. Raises ValueError for a prefix that `prefix_problem` refuses, OSError when nothing
    can be written.
    """
    prefix = fill_dates(prefix, datetime.now())
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
            long = error.errno == errno.ENAMETOOLONG  # of a disk that takes less than others
            raise OSError(
                f"Nothing can be written under {output} ({error}); "
                f"{'shorten filename_prefix' if long else 'make that folder writable'} and queue "
                "again. What was sampled is still in ComfyUI's cache."
            ) from error


def prefix_problem(prefix: str) -> str | None:
    """Why `prefix` can't name a file in the output folder, in one sentence; None when it can.

    Whatever names a file goes through here when its fields are filled in; before that, the values
    of widgets aren't known yet and nothing is said of them.
    """
    try:
        name = fill_dates(fill_widgets(prefix, lambda node, widget: "_"), datetime.now())
    except ValueError as error:
        return str(error)
    if os.path.basename(os.path.normpath(name)).strip() in ("", ".", ".."):
        return f"filename_prefix {prefix!r} names no file; type a name such as video/MoGA."
    if found := _FORBIDDEN.search(name):
        return (
            f"filename_prefix {prefix!r} has a {found[0]}, which file names cannot hold "
            "everywhere; leave it out."
        )
    if found := _UNWRITABLE.search(name):
        return (
            f"filename_prefix {prefix!r} has the character {found[0]!r}, which file names cannot "
            "hold; leave it out."
        )
    output = folder_paths.get_output_directory()
    path = os.path.join(output, os.path.normpath(name))
    if not _is_within(output, path):
        return (
            f"filename_prefix {prefix!r} leaves ComfyUI's output folder; use a name, or a folder "
            "and a name such as video/MoGA."
        )
    return _length_problem(prefix, output, os.path.relpath(path, output))


def _length_problem(prefix: str, output: str, name: str) -> str | None:
    folders, last = os.path.split(name)
    ending = len(_LONGEST_ENDING)
    for part, room in [(last, ending), *((folder, 0) for folder in Path(folders).parts)]:
        length, most = _length(part), _limit(output, "PC_NAME_MAX", 255) - room
        if length > most:
            added = ", as a number and an ending are added" if room else ""
            return (
                f"filename_prefix {prefix!r} has a name of {length} {_COUNTED}, and here at most "
                f"{most} fit{added}; shorten it."
            )
    length, most = _length(os.path.join(output, name)), _limit(output, "PC_PATH_MAX", 4096)
    if length + ending >= most:
        return (
            f"filename_prefix {prefix!r} makes a path of {length + ending} {_COUNTED}, and here "
            f"fewer than {most} fit; shorten it."
        )
    return None


def _length(name: str) -> int:
    """How a file system counts: in UTF-8 a letter outside of English takes 2 to 4 bytes."""
    return len(name.encode("utf-16-le")) // 2 if os.name == "nt" else len(os.fsencode(name))


def _limit(folder: str, name: str, default: int) -> int:
    try:
        return os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):  # Windows; a folder that isn't there yet
        return default


def save_still(picture: Image.Image) -> str:
    """Write a picture for the node to show to ComfyUI's temporary folder. Returns its name."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"moga_still_{secrets.token_hex(8)}.png"
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
