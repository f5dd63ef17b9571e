"""What routing does in a model, without ComfyUI: `python -m moga.inspect --help`."""

from .cli import main

__all__ = ["main"]
