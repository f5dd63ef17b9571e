"""A last word from a process that is stopped while it waits for others, deep in PyTorch.

Python runs a signal's handler between two of its own instructions, and a process that waits for a
GPU, which waits for a process that is gone, does not get to one before its launcher kills it. What
the system writes into a pipe at the signal, a thread reads in time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

GRACE = 10.0  # seconds for the handler; launchers kill after 30


@contextmanager
def last_word(say: Callable[[int], None], grace: float = GRACE) -> Iterator[None]:
    """Within it SIGINT or SIGTERM ends the process in time: `say` is called if nothing else was.

    say: of the signal's number. The exit status is 128 and that number. SIGTERM needs a handler of
    its own. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    done = threading.Event()

    def wait() -> None:
        with os.fdopen(receiving, "rb", buffering=0) as heard:
            while signals := heard.read(1):
                if signals[0] in (signal.SIGINT, signal.SIGTERM):
                    break
            else:
                return
            if not done.wait(grace):
                say(signals[0])
                end(128 + signals[0])

    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)  # first: what writes there then has a reader
        done.set()
        os.close(sending)  # which ends the thread


def end(status: int) -> NoReturn:
    """End this process at once: no good-bye to other processes, which may never answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
