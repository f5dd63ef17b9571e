"""A few pictures spread over a film, for as little decoding as they can be had."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ...video.complaints import plain
from .container import opened
from .facts import FilmError
from .records import Source

_NEAR = 4  # seconds that are decoded rather than jumped over
_SIDE = 1280  # pixels of the longer side, at most


def some_pictures(source: Source, count: int) -> np.ndarray:
    """Up to `count` pictures, uint8 (T, height, width, 3) in BGR, as shown but for HDR.

    Of a long film those near its key frames. Raises FilmError.
    """
    import av

    try:
        with opened(source.path) as container:
            stream = next(s for s in container.streams.video if not _cover(s))
            stream.thread_type = "AUTO"
            found = [_array(frame, source) for frame in _near(container, stream, source, count)]
    except (av.FFmpegError, OSError) as error:
        words = plain(getattr(error, "strerror", None) or str(error))
        raise FilmError(f"cannot be decoded ({words}); replace the file.") from None
    if not found:
        raise FilmError("gives no picture; replace the file.")
    return np.stack(found)


def _cover(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _near(container: Any, stream: Any, source: Source, count: int) -> Iterator[Any]:
    """The first frame at or after each of `count` times, or a key frame near to it."""
    seconds = source.seconds
    begin = (stream.start_time or 0) * stream.time_base
    slack = seconds / count / 2
    here, frames = Fraction(-_NEAR), None
    for k in range(count):
        wanted = seconds * (2 * k + 1) / (2 * count)
        if frames is None or wanted - here > _NEAR:
            container.seek(int((begin + wanted) / stream.time_base), stream=stream)
            frames = container.decode(stream)
            exact = False
        else:
            exact = True
        for frame in frames:
            here = (frame.pts or 0) * stream.time_base - begin
            if here >= wanted or (not exact and wanted - here <= slack):
                yield frame
                break
        else:
            return


def _array(frame: Any, source: Source) -> np.ndarray:
    width, height = source.width, source.height
    scale = min(1.0, _SIDE / max(width, height))
    size = [max(1, round(side * scale)) for side in (width, height)]
    turned = source.facts is not None and source.facts.rotation % 180 == 90
    across, down = reversed(size) if turned else size
    picture = frame.reformat(across, down, "bgr24").to_ndarray()
    quarters = source.facts.rotation // 90 if source.facts else 0
    return np.ascontiguousarray(np.rot90(picture, -quarters))
