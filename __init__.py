"""ComfyUI-MoGA: Mixture-of-Groups Attention for minute-long, multi-shot video."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
