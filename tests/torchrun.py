"""Several processes on this machine."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(processes: int, *words: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """torchrun of that many processes on this machine, and the environment that they need."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*start, "--nproc-per-node", str(processes), *words], environment


def launch(processes: int, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run it to its end."""
    start, environment = command(processes, *words, **variables)
    return subprocess.run(start, env=environment, capture_output=True, text=True, check=False)
