"""Where a node's files go: numbered names in ComfyUI's output folder, and never outside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths


@dataclass(frozen=True)
class OutputFile:
    """A file to be written in the output folder: where, and what the frontend calls it."""

    path: Path
    subfolder: str

    @property
    def name(self) -> str:
        return self.path.name


def output_file(prefix: str, extension: str, width: int, height: int) -> OutputFile:
    """The next free numbered name for ``prefix``, as ComfyUI's own Save nodes count.

    Makes the folder. Raises ValueError for a prefix that ``prefix_problem`` refuses.
    """
    if problem := prefix_problem(prefix):
        raise ValueError(problem)
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return OutputFile(Path(folder, f"{name}_{counter:05}_{extension}"), subfolder)


def prefix_problem(prefix: str) -> str | None:
    """Why ``prefix`` can't name a file in the output folder, in one sentence; None when it can."""
    if os.path.basename(os.path.normpath(prefix)).strip() in ("", ".", ".."):
        return f"filename_prefix {prefix!r} names no file; type a name such as video/MoGA."
    output = folder_paths.get_output_directory()
    if not _is_within(output, os.path.join(output, os.path.normpath(prefix))):
        return (
            f"filename_prefix {prefix!r} leaves ComfyUI's output folder; use a name, or a folder "
            "and a name such as video/MoGA."
        )
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
