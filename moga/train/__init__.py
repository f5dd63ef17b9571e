"""The trainer, where MoGA checkpoints come from: `python -m moga.train --help`."""

from .cli import main

__all__ = ["main"]
