"""`python -m moga.train`."""

import os
import sys

from ..parallel.signals import end
from .cli import main

if __name__ == "__main__":
    status = main()
    if status and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        end(status)  # Python's own end waits for a network in which others have stopped
    sys.exit(status)
