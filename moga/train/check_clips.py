"""Whether the videos of a training decode without errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ..data.rows import Examined, refuse
from ..video.complaints import damaged, decode_errors
from ..video.excerpt import Excerpt


def check_clips(rows: Sequence[Examined]) -> None:
    """Decode every clip once, one on each core. Raises RowsError with all that are damaged."""
    clips = list(dict.fromkeys(_clip(one) for one in rows))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        decoded = pool.map(decode_errors, *zip(*clips, strict=True))
        bar = tqdm(decoded, "decoding every clip once", len(clips), unit="video")
        errors = dict(zip(clips, bar, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    refuse(
        [
            f"line {one.row.line}, {one.row.video.name}: {damaged(errors[_clip(one)])}"
            for one in rows
            if errors[_clip(one)]
        ]
    )


def _clip(one: Examined) -> tuple[Path, Excerpt]:
    return one.row.video, Excerpt(one.row.excerpt.spans)  # all of a picture is decoded anyway
