"""Whether the videos of a training decode without errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ..data.rows import Examined, refuse
from ..video.complaints import damaged, decode_errors


def check_clips(rows: Sequence[Examined]) -> None:
    """Decode every video once, one on each core. Raises RowsError with all that are damaged."""
    videos = list(dict.fromkeys(one.row.video for one in rows))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        decoded = pool.map(decode_errors, videos)
        bar = tqdm(decoded, "decoding every clip once", len(videos), unit="video")
        errors = dict(zip(videos, bar, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    refuse(
        [
            f"line {one.row.line}, {one.row.video.name}: {damaged(errors[one.row.video])}"
            for one in rows
            if errors[one.row.video]
        ]
    )
