"""How threads learn that the run is over: an interrupt reaches the first thread alone."""

import threading

STOPPED = threading.Event()


def go_on() -> None:
    """Return while the run goes on. Raises KeyboardInterrupt when it was stopped."""
    if STOPPED.is_set():
        raise KeyboardInterrupt
