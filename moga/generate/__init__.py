"""A film from a script of shots, without ComfyUI: `python -m moga.generate --help`."""

from .cli import main

__all__ = ["main"]
