"""The trainer, where MoGA checkpoints come from: `python -m moga.train --help`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import sentence
from ..parallel.signals import last_word

_STOPPED = {signal.SIGINT: "stopped; start again to go on from the last checkpoint."}
_ENDED = (
    "ended by its launcher, which does so when another process has ended; see what that one said, "
    "and start again to go on from the last checkpoint."
)


class _ToldToEnd(BaseException):
    """SIGTERM, from torchrun or accelerate."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; a bad request is one sentence and 2.

    Of several processes the first one speaks, and another only of what it alone has met.
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:
        if (words := sentence(error)) is None:
            raise
        _say(words, getattr(error, "everywhere", False))
        return 2
    except KeyboardInterrupt:
        _say(_STOPPED[signal.SIGINT], everywhere=True)
        return 130
    except _ToldToEnd:
        _say(_ENDED, everywhere=True)
        return 128 + signal.SIGTERM


def _say(words: str, everywhere: bool) -> None:
    rank = int(os.environ.get("RANK", 0))
    if rank == 0:
        print(f"moga.train: {words}", file=sys.stderr, flush=True)
    elif not everywhere:
        print(f"moga.train: process {rank}: {words}", file=sys.stderr, flush=True)


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m moga.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a Wan model with Mixture-of-Groups Attention. For several GPUs: "
        "accelerate launch -m moga.train ...",
        epilog=_settings_help(),
        usage="%(prog)s [-h] [--cache-only] [--jobs N] [--check] [--consolidate] CONFIG.toml "
        "[--section.key value ...]",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--cache-only", action="store_true", help="make the cache, and stop")
    parser.add_argument(
        "--check", action="store_true", help="check settings, decode every clip once, and stop"
    )
    parser.add_argument(
        "--consolidate",
        action="store_true",
        help="write the newest checkpoint as one model file, and stop",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that make the cache, with --cache-only"
    )
    options, words = parser.parse_known_args(arguments)
    from .consolidate import consolidate
    from .errors import everywhere
    from .preview import check_only
    from .read_settings import SettingsError, read_settings
    from .run import fill_cache, run

    try:
        settings = read_settings(options.config, words)
    except SettingsError as error:  # all of a launch are given the same
        raise everywhere(error) from None
    if options.jobs != 1 and not (options.cache_only and options.jobs > 0):
        raise SettingsError(
            f"--jobs is {options.jobs}; give 1 or more, and more than 1 with --cache-only alone."
        )
    if options.check:
        print(check_only(settings))
    elif options.consolidate:
        print(f"wrote {consolidate(settings)}")
    elif options.cache_only:
        fill_cache(settings, options.jobs)
    else:
        with _told_to_end():
            written = run(settings)
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"wrote {written}")
    return 0


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Within it a launched process ends in order when its launcher ends it."""
    if "RANK" not in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        # A launcher ends what reads clips too, which PyTorch's handler would tell of as a fault.
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            signal.signal(signal.SIGCHLD, lambda *_: None)
        raise _ToldToEnd

    before = signal.signal(signal.SIGTERM, end)
    try:
        with last_word(lambda signum: _say(_STOPPED.get(signum, _ENDED), everywhere=True)):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _settings_help() -> str:
    from ..toml_settings import described
    from .settings import Settings

    lines = ["settings (sections of CONFIG.toml; stages.0 is the first stage):"]
    return "\n".join([*lines, *described(Settings)])
