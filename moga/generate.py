"""A film from a script of shots, without ComfyUI: `python -m moga.generate --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; a bad request is one sentence and 2."""
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except _expected() as error:
        print(f"moga.generate: {error}", file=sys.stderr)
        return 2


def _main(arguments: Sequence[str]) -> int:
    from .generation.options import parse

    options = parse(arguments)
    from .generation.plan import make_plan

    plan = make_plan(options)
    print(plan.text(), flush=True)
    if options.plan:
        return 0
    from .generation.run import run

    print(f"wrote {run(plan)}")
    return 0


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
        FileExistsError,
        ImportError,
        LayoutError,
        ShotScriptError,
        UsageError,
        VideoError,
    )


if __name__ == "__main__":
    sys.exit(main())
