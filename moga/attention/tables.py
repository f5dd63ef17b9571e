"""The tables that layers of one layout share: kept from layer to layer, on the tensors' device."""

from __future__ import annotations

from ..kernels import segments
from . import far, packing

_CACHES = (packing._static, far._units, far._far_static, segments._ids)


def forget_tables() -> None:
    """Let go of all of them: up to 50 MB for each layout of a minute of video.

    The next layer makes those it needs anew, in a tenth of a second to one.
    """
    for cache in _CACHES:
        cache.cache_clear()
