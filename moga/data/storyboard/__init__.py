"""Procedural films of several shots, whose characters and actions are known, and read back."""

from .cli import main
from .film import (
    ACTIONS,
    CAMERAS,
    EVERYBODY,
    Character,
    Storyboard,
    StoryShot,
    is_held_out,
    storyboard,
    write,
)

__all__ = [
    "ACTIONS",
    "CAMERAS",
    "EVERYBODY",
    "Character",
    "StoryShot",
    "Storyboard",
    "is_held_out",
    "main",
    "storyboard",
    "write",
]
