"""Makes installed packages look absent, for what must work without them."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
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


@contextlib.contextmanager
def hidden(packages: Iterable[str]) -> Iterator[None]:
    """Within it ``packages`` can't be imported in this process, even if they were before."""
    names = set(packages)

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, name: str, path=None, target=None) -> ModuleSpec | None:
            if name.partition(".")[0] in names:
                return None
            return super().find_spec(name, path, target)

    finders = list(sys.meta_path)
    imported = {name: m for name, m in sys.modules.items() if name.partition(".")[0] in names}
    for name in imported:
        del sys.modules[name]
    sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in finders]
    try:
        yield
    finally:
        sys.meta_path[:] = finders
        sys.modules.update(imported)
