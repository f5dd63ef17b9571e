"""Filling a cache with several processes at once, where one leaves the machine idle."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from accelerate import PartialState

from ..check import check
from ..run import cache_spec, clips_of
from ..settings import Settings
from .missing import find_missing, say_what_is_stale
from .spec import CacheError, all_pieces
from .writer import make_cache


def fill_cache(settings: Settings, jobs: int) -> None:
    """Write what `run` would have to cache, but for the texts of films.

    Raises what `check` and `clips_of` raise, and CacheError.
    """
    check(settings)
    train, validate = clips_of(settings)
    rows = train + validate
    spec = cache_spec(settings, PartialState().device)
    say_what_is_stale(spec, find_missing(spec, rows))  # what it reads is known to all, then
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
