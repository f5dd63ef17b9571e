"""What `python -m moga.inspect` is asked for: models and script as `moga.generate` takes them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import MoGAConfig
from ..diagnostics import LEVELS, QUERIES
from ..generate import options as film
from ..generate.options import DENSE, MOGA, UsageError

_OWN = ("noise", "blocks", "queries", "groups", "windows")


@dataclass(frozen=True)
class Options:
    """The command line. film: what is not about the inspection alone; its `out` is the picture.

    noise, blocks: as text. what_if: of random routers; None where the model has its own.
    """

    film: film.Options
    noise: str
    blocks: str
    queries: int
    what_if: MoGAConfig | None

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """What is written: picture, table, and all numbers."""
        out = self.film.out
        return out, out.with_suffix(".txt"), out.with_suffix(".json")


def parse(arguments: Sequence[str]) -> Options:
    """Read a command line. Exits as argparse does on a bad one; raises MogaError."""
    given = vars(parser().parse_args(arguments))
    own = {name: given.pop(name) for name in _OWN}
    what_if = _what_if(given["attention"], own.pop("groups"), own.pop("windows"))
    asked = film.options_of(given)
    _check(asked)
    options = Options(asked, what_if=what_if, **own)
    _check_places(options)
    return options


def parser() -> argparse.ArgumentParser:
    """The options of `moga.generate`, some of which mean something else here, and more."""
    top = argparse.ArgumentParser(
        prog="python -m moga.inspect",
        description="What routing does in a Wan model: which group each token goes to, and how far "
        "each block is from dense attention. The model runs once for each noise level, on a film "
        "that was made before (--latents) or is made first.",
        parents=[film.parser()],
        conflict_handler="resolve",  # what is added below replaces the parent's
    )
    ours = top.add_argument_group("inspection").add_argument
    ours("--out", type=Path, required=True, metavar="FILE",
         help="the picture to write, .png; a table (.txt) and all numbers (.json) go "
         "beside it")  # fmt: skip
    ours("--latents", type=Path, metavar="FILE",
         help="inspect these, saved by moga.generate or an earlier inspection (default: sample "
         "the script first)")  # fmt: skip
    ours("--attention", choices=(MOGA, DENSE), default=MOGA,
         help="dense: what if; plain Wan runs, and random routers made from --seed, as a training "
         "starts with, are measured (default: %(default)s)")  # fmt: skip
    ours("--noise", default=LEVELS, metavar="LEVELS",
         help="from 1, noise alone, to 0, the finished film (default: %(default)s)")  # fmt: skip
    ours("--blocks", default="", help="such as 0,1,28-29 (default: all)")
    ours("--queries", type=int, default=QUERIES,
         help="tokens of each block that are compared with dense attention "
         "(default: %(default)s)")  # fmt: skip
    ours("--groups", type=int, help="of the random routers (default: 5)")
    ours("--windows", metavar="RxC", help="of the random routers (default: 2x2)")
    ours("--contact-sheet", type=Path, help=argparse.SUPPRESS)
    return top


def _what_if(attention: str, groups: int | None, windows: str | None) -> MoGAConfig | None:
    """Raises UsageError, ConfigError."""
    if attention != DENSE:
        if groups is not None or windows is not None:
            raise UsageError(
                "--groups and --windows are of random routers; leave them out, as the model's own "
                "say theirs, or give --attention dense."
            )
        return None
    size = (2, 2)
    if windows is not None:
        match = re.fullmatch(r"(\d{1,4})\s*[xX×]\s*(\d{1,4})", windows.strip(), re.ASCII)
        if match is None:
            raise UsageError(f"--windows is {windows!r}; give rows and columns, such as 2x2.")
        size = (int(match[1]), int(match[2]))
    return MoGAConfig(groups=5 if groups is None else groups, windows=size)


def _check(asked: film.Options) -> None:
    if asked.contact_sheet is not None:
        raise UsageError("--contact-sheet is of moga.generate; leave it out.")
    if asked.model is None or asked.model_low is not None:
        raise UsageError(
            "give --model with one file; of two experts inspect each by itself, with the --noise "
            "that it is used at."
        )
    film.check(asked)


def _check_places(options: Options) -> None:
    out = options.film.out
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out is {out.name!r}; give a name that ends in .png.")
    if not os.path.isdir(out.absolute().parent):
        raise UsageError(f"--out names a folder that is not there ({out.parent}); make it.")
    made = () if options.film.latents else (options.film.latents_out,)
    for path in (*options.files, *made):
        if os.path.lexists(path):
            raise UsageError(f"{path} exists already; choose another --out.")
