"""A film from a script of shots, without ComfyUI: `python -m moga.generate --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generation.options import Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0, or with one sentence 2 for a bad request, 1 for a run that failed,
    130 for one that was stopped (Ctrl+C).
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _say("stopped.", 130)
    except _expected() as error:
        return _say(_words(error), 2)


def _main(arguments: Sequence[str]) -> int:
    from .generation.options import parse

    options = parse(arguments)
    from .generation.plan import make_plan

    plan = make_plan(options)
    print(plan.text(), flush=True)
    if options.plan:
        return 0
    from .generation.places import RunError
    from .generation.run import run
    from .video import VideoError

    try:
        film = run(plan)
    except KeyboardInterrupt:
        return _say(f"stopped.{_kept(options)}", 130)
    except (RunError, VideoError, OSError) as error:
        return _say(f"{_words(error)}{_kept(options)}", 1)
    print(f"wrote {film}")
    return 0


def _kept(options: Options) -> str:
    """Where the latents of this run are, for the end of a message; "" where none are saved."""
    latents = options.latents_out
    if options.latents is not None or not os.path.isfile(latents):
        return ""
    return f" The latents are in {latents}: --latents decodes them."


def _say(words: str, status: int) -> int:
    print(f"moga.generate: {words}", file=sys.stderr)
    return status


def _words(error: Exception) -> str:
    """The sentence of an error; of one that the system raised, the file and what it said."""
    words = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        words = f"{error.filename}: {error.strerror}"
    return words if words.endswith(".") else f"{words}."


def _expected() -> tuple[type[Exception], ...]:
    """The errors whose message is meant for the user; anything else is a bug and shows itself."""
    from .checkpoint import CheckpointError
    from .config import ConfigError
    from .generation.options import UsageError
    from .kernels import BackendError
    from .layout import LayoutError
    from .shotscript import ShotScriptError
    from .video import VideoError

    return (
        BackendError,
        CheckpointError,
        ConfigError,
        ImportError,
        LayoutError,
        OSError,
        ShotScriptError,
        UsageError,
        VideoError,
    )


if __name__ == "__main__":
    sys.exit(main())
