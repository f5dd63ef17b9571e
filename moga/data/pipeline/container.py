"""A film's container, opened by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """The container of a film, whose tags need not be text. Raises OSError and av.FFmpegError.

    Through Python's own file: any name can be opened, and nothing but this file.
    """
    import av

    # PyAV 19 reads such tags by itself, and no longer has the argument.
    own = int(av.__version__.partition(".")[0]) >= 19
    lenient = {} if own else {"metadata_errors": "replace"}
    with open(path, "rb") as file, av.open(file, **lenient) as container:
        yield container
