"""When the next call may be made, for all threads together."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from threading import Lock


class Pace:
    """Calls at even distances, and none while the server asked to wait.

    per_minute: 0 is no limit. now, sleep: a clock.
    """

    def __init__(
        self,
        per_minute: int,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._distance = 60 / per_minute if per_minute else 0.0
        self._now, self._sleep = now, sleep
        self._lock, self._next = Lock(), now()

    def wait(self) -> None:
        """Wait for a turn."""
        while True:
            with self._lock:
                now = self._now()
                if now >= self._next:
                    self._next = now + self._distance
                    return
                left = self._next - now
            self._sleep(left)

    def hold(self, seconds: float) -> None:
        """Let nobody have a turn for so long."""
        with self._lock:
            self._next = max(self._next, self._now() + seconds)


def asked_to_wait(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None for neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        seconds = (when - datetime.now(timezone.utc)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None
