"""What the pack's schemas share: its wire types, and what older versions of ComfyUI lack."""

import inspect
from typing import Any

from comfy_api.latest import io
from comfyui_version import __version__

MogaShots = io.Custom("MOGA_SHOTS")
MogaRouters = io.Custom("MOGA_ROUTERS")
MogaShotChain = io.Custom("MOGA_SHOT_CHAIN")  # shots that have no frame rate yet

_SHOWS_PARTIAL_REFUSALS = (0, 33)


def _known(function: Any, **options: Any) -> dict[str, Any]:
    """Those of the options that this version's function takes."""
    takes = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in takes}


# For inputs that few need: folded away where the page can.
ADVANCED = _known(io.Int.Input, advanced=True)


def also_found_as(*names: str) -> dict[str, Any]:
    """Options of a Schema whose node other words find in the page's search."""
    return _known(io.Schema, search_aliases=list(names))


def shown_from_cache() -> dict[str, Any]:
    """Options of a Schema whose node shows its pictures also where the cache had them.

    An output node, which can be run by itself too, where the page says what is wrong with the rest
    of a graph: a prompt with one sound output is accepted, and older pages then keep silent about
    the others. 0.3.64 shows again only what output nodes show: there the pictures are of the last
    time that the node ran.
    """
    version = tuple(int(part) for part in __version__.split(".")[:2])
    if version >= _SHOWS_PARTIAL_REFUSALS:
        return {"is_output_node": True}
    return _known(io.Schema, has_intermediate_output=True)
