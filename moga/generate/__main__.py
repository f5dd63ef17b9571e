"""`python -m moga.generate`."""

import os
import sys

from .cli import main

if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:  # torchrun started it, among others
        from .processes import main_of_several as main
    sys.exit(main(sys.argv[1:]))
