"""Makes ``.venv`` ready to run everything here: make calls it first. Standard library only.

Does nothing when nothing has changed since the last time.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from find_comfyui import (
    find_chromium,
    find_comfyuis,
    frontend,
    frontend_folder,
    read_version,
)

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
READY = VENV / "ready"

# For ComfyUI's pages: of these only the first is needed, and only where there is a browser. Each
# ComfyUI gets its own beside the others; the others are half a gigabyte.
PAGES = ("comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs")
# Ours to choose, in pyproject.toml.
PINNED = ("torch", "torchvision", "torchaudio")


def main() -> None:
    comfyuis = sorted(find_comfyuis(), key=read_version, reverse=True)
    requirements = comfyui_requirements(comfyuis)
    frontends = {frontend(root): frontend_folder(root, VENV) for root in comfyuis}
    if not find_chromium():
        frontends = {}
    key = fingerprint([*requirements, *frontends])
    if PYTHON.exists() and READY.exists() and READY.read_text() == key:
        return
    READY.unlink(missing_ok=True)
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", VENV)
    run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv")
    listed = VENV / "comfyui-requirements.txt"
    listed.write_text("\n".join(requirements) + "\n")
    print("Installing into .venv, for", *(comfyuis or ["no ComfyUI"]), flush=True)
    install = (PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON)
    extras = "train,data,dev,page" if frontends else "train,data,dev"
    run(*install, "--editable", f".[{extras}]", "--requirements", listed)
    for package_name, static in frontends.items():
        run(*install, "--no-deps", "--target", static.parents[1], package_name)
    READY.write_text(key)


def comfyui_requirements(comfyuis: list[Path]) -> list[str]:
    """What all these ComfyUIs need. Where they differ, the first one's word counts."""
    chosen: dict[str, str] = {}
    for root in comfyuis:
        for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines():
            line = line.partition("#")[0].strip()
            if line:
                chosen.setdefault(package(line), line)
    return [line for name, line in chosen.items() if name not in (*PAGES, *PINNED)]


def package(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0]).lower() if name else requirement


def fingerprint(requirements: list[str]) -> str:
    files = (Path(__file__), ROOT / "pyproject.toml", ROOT / "requirements.txt")
    parts = [sys.version, *requirements, *(file.read_text(encoding="utf-8") for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run(*command: object) -> None:
    result = subprocess.run([str(part) for part in command], cwd=ROOT)
    if result.returncode:
        sys.exit(f"scripts/setup.py: this failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
