"""How what is wrong reaches people."""

from ..moga.hosts.comfyui.errors import plainly

__all__ = ["plainly"]
