"""MoGA in several processes on a CPU (gloo): what each checks is in *_checks.py."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

HERE = Path(__file__).parent
CASES = [
    (file.stem, node.name)
    for file in sorted(HERE.glob("*_checks.py"))
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(("module", "check"), CASES)
def test_processes_make_what_one_makes(together, module, check, processes):
    told = together(module, processes)
    assert check in told, told.get("stderr", "a check before it failed")
    assert told[check] is None, told[check]
