"""Shots of a film: what is said in each, and where it begins and ends."""

from .chain import ShotChain
from .refusal import ShotScriptError
from .shots import DEFAULT_SCRIPT, TEMPORAL_STRIDE, Shot, ShotList

__all__ = [
    "DEFAULT_SCRIPT",
    "TEMPORAL_STRIDE",
    "Shot",
    "ShotChain",
    "ShotList",
    "ShotScriptError",
]
