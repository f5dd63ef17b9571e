"""What routing does in a model, without ComfyUI: `python -m moga.inspect --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0, or with one sentence 2 for a bad request, 1 for a run that failed,
    130 for one that was stopped (Ctrl+C).
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _say("stopped.", 130)
    except Exception as error:
        return _say_of(error, 2)


def _main(arguments: Sequence[str]) -> int:
    from .options import parse

    options = parse(arguments)
    from .plan import make_plan

    plan = make_plan(options)
    print(plan.text(), flush=True)
    if options.film.plan:
        return 0
    from ..generate.places import RunError
    from ..vae.decode import NotFiniteError
    from .run import run

    try:
        text = run(plan)
    except (RunError, NotFiniteError, OSError) as error:
        return _say_of(error, 1)
    print(f"\n{text}\n\nwrote {', '.join(map(str, options.files))}")
    return 0


def _say_of(error: Exception, status: int) -> int:
    if (words := sentence(error)) is None:
        raise error
    return _say(words, status)


def _say(words: str, status: int) -> int:
    print(f"moga.inspect: {words}", file=sys.stderr)
    return status
