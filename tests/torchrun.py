"""Several processes on this machine."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def launch(processes: int, *words: str, **settings: str) -> subprocess.CompletedProcess:
    """torchrun, in that many processes on this machine."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **settings}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
