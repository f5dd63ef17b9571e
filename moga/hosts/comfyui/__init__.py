"""MoGA on ComfyUI's own Wan models. Imported only inside ComfyUI."""

from ...blocks import parse_blocks
from .apply import apply_moga, apply_shots, remove_moga
from .conditioning import encode_negative, encode_shots
from .inspection import inspect_model
from .loading import carried_routers, load_diffusion_model
from .routers import RouterSet, load_routers
from .settings import Settings
from .status import show_on_node, summary
from .wan import wan_model

__all__ = [
    "RouterSet",
    "Settings",
    "apply_moga",
    "apply_shots",
    "carried_routers",
    "encode_negative",
    "encode_shots",
    "inspect_model",
    "load_diffusion_model",
    "load_routers",
    "parse_blocks",
    "remove_moga",
    "show_on_node",
    "summary",
    "wan_model",
]
