"""The command line in one of several processes (torchrun), of which one speaks for all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr

from ..errors import sentence
from ..parallel.network import is_network
from ..parallel.processes import ElsewhereError, Processes, join, leave, unlike_cards
from ..video import VideoError
from . import cli
from .options import Options, parse
from .places import NotNumbersError, RunError
from .plan import fit, make_plan
from .run import run


def main_of_several(arguments: Sequence[str]) -> int:
    """`moga.generate` in each of the processes that torchrun started. Returns the exit status."""
    told = _Told()
    try:
        return _main(arguments, told)
    except KeyboardInterrupt:
        return told.say("stopped.", 130)
    except (RunError, VideoError, OSError) as error:
        return told.of(error, 1)
    except Exception as error:
        return told.of(error, 1 if told.running else 2)
    finally:
        leave()


def _main(arguments: Sequence[str], told: _Told) -> int:
    processes = told.processes = join()
    main = processes.main
    with processes.agreed(), nullcontext() if main else redirect_stderr(io.StringIO()):
        options = parse(arguments)
    with processes.agreed():
        # What writes, to see whether it can, is the main process.
        plan = (make_plan if main else fit)(options, processes.count)
    unlike = unlike_cards(processes)
    if main:
        print(*filter(None, (plan.text(), unlike)), sep="\n", flush=True)
    if options.plan:
        return 0
    told.running = options
    film = run(plan, processes)
    if main:
        print(f"wrote {film}")
    return 0


class _Told:
    """What one process has to say, with the others in mind. running: once the work began."""

    def __init__(self) -> None:
        self.processes: Processes | None = None
        self.running: Options | None = None

    @property
    def main(self) -> bool:
        """Before they met, each says what keeps it from that."""
        return self.processes is None or self.processes.main

    def say(self, words: str, status: int) -> int:
        """What concerns all, once."""
        if self.main:
            kept = "" if self.running is None else cli.kept(self.running)
            cli.say(f"{words}{kept}", status)
        return status

    def of(self, error: Exception, status: int) -> int:
        """Say an error: the main one's, all processes' or this one's own. Raises a bug."""
        if is_network(error):
            # It said so itself, or was killed, which torchrun reports.
            return self.say("another process has ended, which ends the run.", 1)
        if isinstance(error, (ElsewhereError, NotNumbersError)) or self.main:
            if (words := sentence(error)) is None:
                raise error
            return self.say(words, status)
        return cli.say_of(error, status)
