"""`python -m moga.train`."""

import os
import sys
import traceback

from ..parallel.signals import end
from .cli import main

if __name__ == "__main__":
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        sys.exit(main())
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 1
    if status:
        end(status)  # Python's own end waits for a network in which others have stopped
