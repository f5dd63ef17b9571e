"""What routing does in a model: how far a layer is from dense attention, and what it leaves out."""

from .layer import LayerSample, sample_layer
from .observer import Observer, drawn_frames
from .report import Cell, Inspection, config_text, suggest_dense_blocks
from .request import LEVELS, MOST_QUERIES, QUERIES, Request, UnsuitableError, check_tokens

__all__ = [
    "LEVELS",
    "MOST_QUERIES",
    "QUERIES",
    "Cell",
    "Inspection",
    "LayerSample",
    "Observer",
    "Request",
    "UnsuitableError",
    "check_tokens",
    "config_text",
    "drawn_frames",
    "sample_layer",
    "suggest_dense_blocks",
]
