"""The command line in one of several processes (torchrun), of which one speaks for all."""

from __future__ import annotations

import io
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import NoReturn

from ..errors import sentence
from ..parallel.network import NetworkError, backend_failed, is_network
from ..parallel.processes import ElsewhereError, Processes, join, leave, unlike_cards
from ..parallel.signals import end, last_word
from ..video import VideoError
from . import cli
from .options import Options, parse
from .places import NotNumbersError, RunError
from .plan import fit, make_plan
from .run import run

_ENDED = "another process has ended, which ends the run."


def main_of_several(arguments: Sequence[str]) -> NoReturn:
    """`moga.generate` in each of the processes that torchrun started. Ends the process.

    At once, in every case: after an error, saying good-bye to the others would wait for those that
    wait for this one; and Python's own end can abort over threads that PyTorch's network has left,
    for which torchrun would end the one that still decodes.
    """
    told = _Told()
    signal.signal(signal.SIGTERM, _to_end)
    try:
        with last_word(told.stopped):
            _main(arguments, told)
    except KeyboardInterrupt as error:
        for signum in (signal.SIGINT, signal.SIGTERM):  # once is enough
            signal.signal(signum, signal.SIG_IGN)
        told.stopped(signal.SIGTERM if isinstance(error, _ToldToEnd) else signal.SIGINT)
        end(128 + signal.SIGINT)
    except SystemExit as error:  # argparse's
        end(error.code if isinstance(error.code, int) else 2)
    except Exception as error:
        failed = told.running is not None or isinstance(error, (RunError, VideoError, OSError))
        try:
            status = told.of(error, 1 if failed else 2)
        except Exception:
            traceback.print_exc()
            status = 1
        end(status)
    end(0)


class _ToldToEnd(KeyboardInterrupt):
    """SIGTERM, from torchrun: another process has ended."""


def _to_end(*_: object) -> None:
    raise _ToldToEnd


def _main(arguments: Sequence[str], told: _Told) -> None:
    processes = told.processes = join()
    main = processes.main
    with processes.agreed(), nullcontext() if main else _silence():
        options = parse(arguments)
    with processes.agreed():
        # What writes, to see whether it can, is the main process.
        plan = (make_plan if main else fit)(options, processes.count)
    unlike = unlike_cards(processes)
    if main:
        print(*filter(None, (plan.text(), unlike)), sep="\n", flush=True)
    if options.plan:
        leave()
        return
    told.running = options
    film = run(plan, processes)
    if main:
        print(f"wrote {film}")


@contextmanager
def _silence() -> Iterator[None]:
    """For what argparse says by itself, and every process would."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


class _Told:
    """What one process has to say, with the others in mind. running: once the work began."""

    def __init__(self) -> None:
        self.processes: Processes | None = None
        self.running: Options | None = None

    @property
    def main(self) -> bool:
        """Before they met, one of each machine says what keeps them from that."""
        if self.processes is None:
            return os.environ.get("LOCAL_RANK", "0") == "0"
        return self.processes.main

    def say(self, words: str, status: int) -> int:
        """What concerns all, once."""
        if self.main:
            kept = "" if self.running is None else cli.kept(self.running)
            cli.say(f"{words}{kept}", status)
        return status

    def stopped(self, signum: int) -> None:
        """Say which signal ended it."""
        self.say("stopped." if signum == signal.SIGINT else _ENDED, 1)

    def of(self, error: Exception, status: int) -> int:
        """Say an error: the main one's, all processes' or this one's own. Raises a bug."""
        error = backend_failed(error) or error
        if is_network(error):
            # It said so itself, or was killed, which torchrun reports.
            return self.say(_ENDED, 1)
        alike = isinstance(error, (ElsewhereError, NotNumbersError, NetworkError))
        if alike or self.main:
            if (words := sentence(error)) is None:
                raise error
            return self.say(words, status)
        if self.processes is None:
            return status
        return cli.say_of(error, status)
