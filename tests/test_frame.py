"""What holds for the whole repository: what it needs, what it ships, how it may be imported."""

import ast
import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.bare import OPTIONAL

ROOT = Path(__file__).resolve().parents[1]
OURS = ("moga", "nodes")
CODE = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))

CORE = (
    "config",
    "layout",
    "routing",
    "attention",
    "kernels",
    "shots",
    "attention.text",
    "checkpoint",
)


def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="the standard library has it from 3.11 on")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirement_name(line: str) -> str:
    return re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def run_python(code: str) -> str:
    """Output of a program that runs elsewhere than in the repository, where all is importable."""
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "comfyui")}
    done = subprocess.run(command, cwd=ROOT.anchor, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_core_imports_without_anything_optional():
    modules = ["moga", *(f"moga.{name}" for name in CORE)]
    hidden = [*OPTIONAL, "comfy", "comfy_api", "transformers", "triton", "xformers"]
    imports = f"import {', '.join(modules)}"
    run_python(f"from harness.bare import hidden\nwith hidden({hidden}): {imports}")


def test_installing_makes_only_the_library_importable():
    # The repository's nodes would hide ComfyUI's, or be hidden by them.
    paths = run_python("import moga, sys; print(*sys.path, sep='\\n')").splitlines()
    assert str(ROOT) not in paths


def test_requirements_hold_no_torch_and_no_kernels():
    for line in requirements():
        assert not re.match(r"torch|flash|sage|xformers|triton|nvidia", requirement_name(line)), (
            line
        )


def test_requirements_are_those_of_the_package():
    assert sorted(project()["project"]["dependencies"]) == sorted(requirements())


def test_registry_metadata():
    data = project()
    name = data["project"]["name"]
    assert re.fullmatch(r"[a-z][\w.-]{0,99}", name) and "comfyui" not in name.lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["project"]["version"])
    assert data["project"]["urls"]["Repository"].startswith("https://")
    comfy = data["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_published_package_has_the_nodes_and_no_tests():
    ignored = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]

    def is_ignored(path: str) -> bool:
        # As in .gitignore: "folder/" leaves out all below it.
        return any(
            path.startswith(p) if p.endswith("/") else fnmatch.fnmatch(path, p) for p in patterns
        )

    left_out = ("tests/conftest.py", ".ci/run", "Makefile", "scripts/setup.py", "demo/film.mp4")
    assert all(map(is_ignored, left_out))
    shipped = ("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md")
    folders = ("nodes/a.py", "moga/a.py", "moga/data/a.py", "web/docs/a.md", "workflows/a.json")
    assert not any(map(is_ignored, shipped + folders))


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_our_packages_import_each_other_relatively(path):
    # In ComfyUI the package has another name, and `nodes` is ComfyUI's own module.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        wrong = [name for name in names if name.partition(".")[0] in OURS]
        assert not wrong, f"line {node.lineno}: import of {wrong[0]} must be relative"


def test_readme_names_commands_that_exist():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README yet")
    named = set(re.findall(r"^\s*(?:\$ )?make (\w+)", readme.read_text("utf-8"), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert {"test", "demo"} <= named <= targets
