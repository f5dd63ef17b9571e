"""Starts one ComfyUI inside this process, without its web server.

A process can hold one ComfyUI only: it takes over ``sys.path``, reads ``sys.argv`` at import and
its modules have names like ``nodes`` and ``utils``.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from find_comfyui import read_version

from .bare import OPTIONAL, hidden
from .comfyui import ComfyUI
from .objects import NODES

# Core's optional nodes that the tests use, by file name; what a version lacks is left out. All of
# them would take three times as long, and some need what a test machine has not (OpenGL).
EXTRAS = (
    "advanced_samplers",
    "apg",
    "cfg",
    "clip_sdxl",
    "cond",
    "context_windows",
    "custom_sampler",
    "easycache",
    "eps",
    "flux",
    "freelunch",
    "hunyuan",
    "images",
    "latent",
    "lora_extract",
    "lt",
    "mahiro",
    "mask",
    "model_advanced",
    "model_merging",
    "model_merging_model_specific",
    "model_patch",
    "nag",
    "optimalsteps",
    "perpneg",
    "post_processing",
    "preview_any",
    "primitive",
    "rebatch",
    "rope",
    "sd3",
    "slg",
    "sparse_attention",
    "string",
    "tcfg",
    "toolkit",
    "torch_compile",
    "train",
    "upscale_model",
    "video",
    "video_model",
    "wan",
    "wanmove",
)


class Server:
    """The end of ComfyUI's web server that nodes and executor see.

    ``sent``: (event, data) for each message to the page that is connected, if any.
    """

    client_id = None  # set by the executor, to the page that a prompt came from
    last_node_id = None
    sockets_metadata: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.sent: list[tuple[str, object]] = []

    def send_sync(self, event: str, data: object, sid: str | None = None) -> None:
        if sid is not None:
            self.sent.append((event, data))

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """Sends to nobody."""


def boot(root: Path, base: Path, pack: Path, arguments: Sequence[str] = ("--cpu",)) -> ComfyUI:
    """Boot the ComfyUI in ``root`` with the custom nodes in ``pack``, all that is optional hidden.

    ``base`` is an empty folder for all that it reads and writes: models, input, output, temp.
    ``arguments`` are ComfyUI's own.
    """
    if "comfy" in sys.modules:
        raise RuntimeError("a ComfyUI was booted in this process before")
    sys.path.insert(0, str(root))
    argv, sys.argv = sys.argv, ["main.py", *arguments, "--base-directory", str(base)]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        # Before nodes: up to 0.20 it puts ROOT/comfy first in sys.path, where utils is another one.
        import utils.extra_config  # noqa: F401, I001
        import nodes
    finally:
        sys.argv = argv

    for folder in ("input", "output", "temp"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    server = Server()
    import server as web

    web.PromptServer.instance = server
    asyncio.run(load_nodes(nodes, root, pack))
    nodes.NODE_CLASS_MAPPINGS.update(NODES)
    return ComfyUI(
        root=root,
        version=read_version(root),
        base=base,
        pack=loaded_pack(nodes, pack),
        nodes=nodes.NODE_CLASS_MAPPINGS,
        server=server,
    )


async def load_nodes(nodes: ModuleType, root: Path, pack: Path) -> None:
    for name in EXTRAS:
        path = root / "comfy_extras" / f"nodes_{name}.py"
        if not path.exists():
            continue
        if not await nodes.load_custom_node(str(path), module_parent="comfy_extras"):
            raise RuntimeError(f"{path} can't be loaded (see the log above)")
    core = set(nodes.NODE_CLASS_MAPPINGS)  # which a pack can't replace
    with hidden(OPTIONAL):  # as on a ComfyUI with nothing else installed
        if not await nodes.load_custom_node(str(pack), core, module_parent="custom_nodes"):
            absent = ", ".join(OPTIONAL)
            raise RuntimeError(f"{pack} can't be loaded without {absent} (see the log above)")


def loaded_pack(nodes: ModuleType, pack: Path) -> ModuleType:
    """The package that ComfyUI made of the folder ``pack``, which has no importable name."""
    file = str(pack / "__init__.py")
    return next(m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == file)
