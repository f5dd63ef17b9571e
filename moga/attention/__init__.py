"""The MoGA attention layer, its definition, and text that belongs to one shot."""

from .layer import layer_backends, moga_attention
from .reference import key_boxes, moga_attention_reference, visible

__all__ = ["key_boxes", "layer_backends", "moga_attention", "moga_attention_reference", "visible"]
