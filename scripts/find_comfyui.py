"""Where the ComfyUIs to test against are, and the browser for their pages. Standard library only.

As a program it prints their folders, one a line.
"""

import os
import re
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

HOW_TO = (
    "no ComfyUI found: set COMFYUI_PATH to a ComfyUI folder (several: separated by ':'), "
    "or have one in ~/comfy/ComfyUI"
)


def find_comfyuis() -> list[Path]:
    """Folders of ``COMFYUI_PATH``, else the ComfyUI we are installed in, else comfy-cli's default.

    Raises ValueError when ``COMFYUI_PATH`` lists something that is not a ComfyUI.
    """
    listed = [
        Path(part).expanduser() for part in os.environ.get("COMFYUI_PATH", "").split(":") if part
    ]
    for folder in listed:
        if not is_comfyui(folder):
            raise ValueError(
                f"COMFYUI_PATH lists {folder}, which is not a ComfyUI folder (one with main.py, "
                "nodes.py and comfyui_version.py in it); correct or unset COMFYUI_PATH"
            )
    if listed:
        return list(dict.fromkeys(folder.resolve() for folder in listed))
    usual = [REPOSITORY.parents[1], Path("~/comfy/ComfyUI").expanduser()]
    return [folder.resolve() for folder in usual if is_comfyui(folder)][:1]


def is_comfyui(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("main.py", "nodes.py", "comfyui_version.py"))


def find_pack(name: str) -> Path | None:
    """Another pack that tests of working together use, beside a ComfyUI or in it."""
    places = [Path("~/comfy/packs"), *(root / "custom_nodes" for root in find_comfyuis())]
    folders = (place.expanduser() / name for place in places)
    return next((folder for folder in folders if (folder / "__init__.py").is_file()), None)


def read_version(root: Path) -> tuple[int, ...]:
    """Version of the ComfyUI in ``root``, as in (0, 33, 0)."""
    text = (root / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"""__version__ = ["']([\d.]+)""", text)
    if not found:
        raise ValueError(f"{root / 'comfyui_version.py'} has no __version__")
    return tuple(int(part) for part in found[1].split("."))


def find_chromium() -> str | None:
    """The browser that opens ComfyUI's page, by the names that systems give it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def frontend(root: Path) -> str:
    """The package with the page of the ComfyUI in ``root``, in the version that it pins."""
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(r"^comfyui-frontend-package==[\d.]+", text, re.MULTILINE)
    if not found:
        raise ValueError(f"{root / 'requirements.txt'} has no comfyui-frontend-package==...")
    return found[0]


def frontend_folder(root: Path, environment: Path = Path(sys.prefix)) -> Path:
    """Where that package's page lies in a virtual environment: ComfyUIs pin different ones."""
    version = frontend(root).partition("==")[2]
    return environment / "frontends" / version / "comfyui_frontend_package" / "static"


if __name__ == "__main__":
    print(*find_comfyuis(), sep="\n")
