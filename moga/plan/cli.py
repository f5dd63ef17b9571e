"""How many cards a film or a training takes: `python -m moga.plan --help`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from ..errors import sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; a bad request is one sentence and 2, a plan
    that does not fit is 1."""
    try:
        status = _main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # such as `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (words := sentence(error)) is None:
            raise
        print(f"moga.plan: {words}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moga.plan: stopped.", file=sys.stderr)
        return 130


def _main(arguments: Sequence[str]) -> int:
    from . import planned, report
    from .options import parse

    options = parse(arguments)
    request = options.request
    if request is None:
        from .table import markdown

        print(markdown(options.card, options.network), end="")
        return 0
    sampled, learned = planned.answers(request)
    if options.json:
        print(json.dumps(report.as_data(request, sampled, learned), indent=1))
    else:
        print(report.text(request, sampled, learned))
    return 0 if all(answer.fits for answer in (sampled, learned) if answer) else 1
