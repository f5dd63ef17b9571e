"""MoGA in several processes, on a CPU (gloo) and on GPUs (NCCL): each check is in *_checks.py."""

import ast
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

HERE = Path(__file__).parent
CASES = [
    f"{file.stem}.{node.name}"
    for file in sorted(HERE.glob("*_checks.py"))
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("check", CASES)
def test_processes_make_what_one_makes(together, check, processes, device):
    if device == "cuda" and torch.cuda.device_count() < processes:
        pytest.skip(f"there are no {processes} GPUs")
    told = together(processes, device)
    assert check in told, told.get("stderr", "a check before it failed")
    assert told[check] is None, told[check]
