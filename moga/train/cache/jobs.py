"""Filling a cache with several processes at once, where one leaves the machine idle."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from ...data.rows import Examined
from .spec import CacheError, CacheSpec, all_pieces
from .writer import make_cache


def make_cache_with(jobs: int, spec: CacheSpec, rows: Sequence[Examined]) -> None:
    """What `make_cache` does, in so many processes. Raises what it raises.

    They are handed what `spec` knows of files by now, and would read others again.
    """
    # The text encoder is by far the largest model, so it is read once.
    make_cache(spec, [], extra_texts=[t for piece in all_pieces(spec, rows) for t in piece.texts])
    parts = [rows[job::jobs] for job in range(min(jobs, len(rows)))]
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    try:
        with ProcessPoolExecutor(len(parts), mp_context=spawn) as pool:
            list(pool.map(partial(make_cache, spec), parts))
    except BrokenProcessPool:
        raise CacheError(
            f"one of {len(parts)} processes that fill the cache was killed, perhaps for want of "
            "memory; start again with fewer --jobs, what was encoded so far is kept."
        ) from None
