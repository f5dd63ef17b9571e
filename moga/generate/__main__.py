"""`python -m moga.generate`."""

import os
import sys

from .cli import main

if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:  # torchrun started it, among others
        # Read by PyTorch when it's imported: each process would warn of how the others left.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from .processes import main_of_several

        main_of_several(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
