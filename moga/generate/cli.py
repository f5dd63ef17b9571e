"""A film from a script of shots, without ComfyUI: `python -m moga.generate --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import sentence

if TYPE_CHECKING:
    from .options import Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0, or with one sentence 2 for a bad request, 1 for a run that failed,
    130 for one that was stopped (Ctrl+C).
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return say("stopped.", 130)
    except Exception as error:
        return say_of(error, 2)


def _main(arguments: Sequence[str]) -> int:
    from .options import parse

    options = parse(arguments)
    from .plan import make_plan

    plan = make_plan(options)
    print(plan.text(), flush=True)
    if options.plan:
        return 0
    from ..video import VideoError
    from .places import RunError
    from .run import run

    try:
        film = run(plan)
    except KeyboardInterrupt:
        return say(f"stopped.{kept(options)}", 130)
    except (RunError, VideoError, OSError) as error:
        return say_of(error, 1, kept(options))
    print(f"wrote {film}")
    return 0


def kept(options: Options) -> str:
    """Where the latents of this run are, for the end of a message; "" where none are saved."""
    latents = options.latents_out
    if options.latents is not None or not os.path.isfile(latents):
        return ""
    return f" The latents are in {latents}: --latents decodes them."


def say_of(error: Exception, status: int, more: str = "") -> int:
    """Say an error in a sentence, and give the status; raise what is a bug."""
    if (words := sentence(error)) is None:
        raise error
    return say(f"{words}{more}", status)


def say(words: str, status: int) -> int:
    """Say it where errors are said, and give the status."""
    print(f"moga.generate: {words}", file=sys.stderr)
    return status
