"""Makes installed packages look absent, for what must work without them."""

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder

# Everything that some part of ours can use and that a bare ComfyUI does not bring.
OPTIONAL = (
    "accelerate",
    "diffusers",
    "flash_attn",
    "flash_attn_interface",
    "ftfy",
    "imageio_ffmpeg",
    "peft",
    "sageattention",
)


def hide(packages: Iterable[str]) -> None:
    """From now on ``packages`` can't be found in this process. Call it before any import."""
    hidden = set(packages)

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, name: str, path=None, target=None) -> ModuleSpec | None:
            if name.partition(".")[0] in hidden:
                return None
            return super().find_spec(name, path, target)

    sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
