"""Checkpoints of a training: written whole or not at all, found again, and thinned out.

What each of its files holds is noted in a checkpoint. One that is not as it was written is never
loaded: the training goes on from the newest one that is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..files import require_space
from .contents import digest_of
from .errors import NO_DISK, TrainingError, everywhere, is_network, writing

_NAME = re.compile(r"(\d{2})-(\d{8})")
PROGRESS = "progress.json"
# In PROGRESS, beside stage and step: the fingerprint, and size and digest of all other files by
# their paths from the checkpoint.
_FINGERPRINT, _FILES = "settings", "files"
ASIDE = ".damaged"  # after the name of one that was set aside


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `step` steps of stage number `stage` are done.

    fingerprint: of what decides its numbers, see `resume.fingerprint`.
    """

    stage: int
    step: int
    fingerprint: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.stage:02d}-{self.step:08d}"


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that is not as it was written. why: in words, naming a file."""

    path: Path
    why: str


@dataclass(frozen=True)
class Survey:
    """The newest whole checkpoint and where it stands, and the newer ones that are damaged."""

    newest: tuple[Path, Progress] | None
    damaged: tuple[Damaged, ...]


class Checkpoints:
    """The folder of a training's checkpoints.

    every: steps between two. keep_last: how many are kept.
    """

    def __init__(self, folder: Path, keep_last: int, every: int = 1) -> None:
        self.folder, self.keep_last, self.every = folder, keep_last, every

    def due(self, step: int, last: int) -> bool:
        """Whether there is one after a step, of a stage that ends with step `last`."""
        return step % self.every == 0 or step == last

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def survey(self) -> Survey:
        """Read the newest checkpoint, and as long as that is damaged the one before.

        Raises TrainingError where there are some and none is whole.
        """
        damaged: list[Damaged] = []
        for path in reversed(self.all()):
            try:
                return Survey((path, _whole(path)), tuple(damaged))
            except (OSError, ValueError, TypeError, KeyError) as error:
                damaged.append(Damaged(path, str(error)))
        if damaged:
            listed = "; ".join(f"{one.path.name}: {one.why}" for one in damaged)
            raise TrainingError(
                f"no checkpoint in {self.folder} is whole ({listed}); put back a copy of one, or "
                "delete that folder to train from the beginning."
            )
        return Survey(None, ())

    def latest(self) -> tuple[Path, Progress] | None:
        """The newest whole one, as `survey` tells it."""
        return self.survey().newest

    def set_aside(self, damaged: Sequence[Damaged]) -> None:
        """Take damaged checkpoints out of the way, and say where. Raises TrainingError."""
        for one in damaged:
            aside = one.path.with_name(one.path.name + ASIDE)
            with writing(one.path):
                shutil.rmtree(aside, ignore_errors=True)
                one.path.rename(aside)
            print(f"{one.path} is kept as {aside.name}, which can be deleted", flush=True)

    def part(self, progress: Progress) -> Path:
        """The folder that a checkpoint grows in until it is complete."""
        return self.folder / f".{progress.name}.part"

    def begin(self, progress: Progress, size: int) -> Path:
        """Make room for a checkpoint of `size` bytes. Raises TrainingError, NoSpaceError."""
        part = self.part(progress)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.part"):
                shutil.rmtree(left)
        require_space(self.folder, size, "a checkpoint", f"make room and start again{self.safe()}")
        with writing(self.folder):
            part.mkdir()
        return part

    def complete(self, progress: Progress, needed: Mapping[Path, str] | None = None) -> Path:
        """Give a checkpoint that is written its name, and drop the oldest ones.

        needed: digests of files elsewhere that it is of no use without. Raises TrainingError.
        """
        path = self.folder / progress.name
        self.guarded(progress, lambda part: _note(part, progress, needed or {}))
        with writing(path):
            if path.exists():
                shutil.rmtree(path)
            self.part(progress).rename(path)
            for old in self.all()[: -self.keep_last]:
                shutil.rmtree(old)
        return path

    def guarded(self, progress: Progress, write: Callable[[Path], None]) -> None:
        """Run `write` on the growing folder; what goes wrong there leaves no trace but a sentence.

        Raises TrainingError for what a disk does; errors of the GPU or the network pass through.
        """
        part = self.part(progress)
        try:
            write(part)
        except NO_DISK:
            raise
        except (OSError, RuntimeError, SafetensorError) as error:
            if is_network(error):
                raise
            shutil.rmtree(part, ignore_errors=True)
            raise everywhere(
                TrainingError(
                    f"the checkpoint of step {progress.step} could not be written to {self.folder} "
                    f"({error}); make room and start again{self.safe()}."
                )
            ) from error

    def safe(self) -> str:
        """What a message may add: from where the training would go on."""
        if not (paths := self.all()):
            return ", from the beginning"
        return f", it goes on from step {int(_NAME.fullmatch(paths[-1].name)[2])}"


def _note(part: Path, progress: Progress, needed: Mapping[Path, str]) -> None:
    """Write down what a checkpoint holds, and let it outlive a power cut."""
    held = {file: digest_of(file) for file in sorted(part.rglob("*")) if file.is_file()}
    files = {
        os.path.relpath(file, part).replace(os.sep, "/"): (file.stat().st_size, digest)
        for file, digest in {**held, **needed}.items()
    }
    about = {"stage": progress.stage, "step": progress.step,
             _FINGERPRINT: progress.fingerprint, _FILES: files}  # fmt: skip
    (part / PROGRESS).write_text(json.dumps(about, indent=1), encoding="utf-8")
    for file in filter(Path.is_file, part.rglob("*")):
        with file.open("rb+") as written:
            os.fsync(written.fileno())


def _whole(path: Path) -> Progress:
    """Where a checkpoint stands. Raises an error that says how it is not as it was written."""
    try:
        data = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
        files = data.pop(_FILES, {})  # an older version noted none
        progress = Progress(fingerprint=data.pop(_FINGERPRINT), **data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{PROGRESS} cannot be read: {error}") from None
    if progress.name != path.name:
        raise ValueError(f"{PROGRESS} is that of {progress.name}")
    for name, (size, _) in files.items():  # all of them first, as it takes no time
        if not (path / name).is_file():
            raise ValueError(f"{name} is gone")
        if (there := (path / name).stat().st_size) != size:
            raise ValueError(f"{name} has {there} bytes of {size}")
    for name, (_, digest) in files.items():
        if digest_of(path / name) != digest:
            raise ValueError(f"{name} has other contents than were written")
    return progress
