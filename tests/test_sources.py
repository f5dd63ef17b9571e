"""What the checkers that people run on custom node packs look for in the sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "moga", "nodes", "recipes", "scripts", "tests")
SOURCES = [ROOT / "__init__.py", *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]
# Where ComfyUI has a way of its own with devices, types and pickles.
FORBIDDEN = re.compile(
    r"\.cuda\(|\.to\(\s*[\"']cuda|torch\.(cuda\.)?(amp\.)?autocast\(|torch\.load\("
    r"|(?<![\w.])(exec|eval)\("
)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=SOURCES, ids=name_of)
def source(request):
    return request.param.read_text(encoding="utf-8")


def test_a_console_on_windows_can_show_the_source(source):
    """Other characters are written as escapes."""
    source.encode("cp1252")


def test_nothing_in_the_source_goes_around_comfyui(source):
    assert [line for line in source.splitlines() if FORBIDDEN.search(line)] == []


def test_a_name_for_a_module_of_comfy_is_the_name_of_nothing_else(source):
    """By which checkers tell what a pack needs of core."""
    tree = ast.parse(source)
    modules, others = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            of_comfy = isinstance(node, ast.ImportFrom) and is_comfy(node.module or "")
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                (modules if of_comfy or is_comfy(alias.name) else others).add(bound)
        elif isinstance(node, ast.arg):
            others.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            others.add(node.id)
    assert modules & others == set()


def is_comfy(module):
    return module.partition(".")[0] == "comfy"
