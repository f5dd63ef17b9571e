"""Whether what ffmpeg left is a whole video, by the outermost parts of the file.

ffmpeg's exit status doesn't say it alone: a program that stands in for ffmpeg, or one whose writes
got lost on the way to a disk, may end well and leave nothing, or a part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .formats import Encoder

_PNG_END = b"IEND\xaeB`\x82"
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska's two outermost parts


def flaw(path: Path, encoder: Encoder, frames: int, sound: bool) -> str | None:
    """Why `path` isn't a whole video of `frames` frames, in a few words; None when it is.

    path: what `encoder` makes, a file or a folder of pictures. sound: whether there is any.
    """
    if encoder.is_folder:
        return _folder_flaw(path, frames, sound)
    size = path.stat().st_size if path.exists() else 0
    if not size:
        return "it is empty"
    with open(path, "rb") as file:
        return _matroska_flaw(file, size) if encoder.extension == ".mkv" else _mp4_flaw(file, size)


def _folder_flaw(folder: Path, frames: int, sound: bool) -> str | None:
    for number in range(1, frames + 1):
        picture = folder / f"{number:06}.png"
        if _last_bytes(picture, len(_PNG_END)) != _PNG_END:
            return f"{picture.name} of {frames} pictures is missing or cut off"
    if sound and not _last_bytes(folder / "audio.wav", 1):
        return "audio.wav is missing or empty"
    return None


def _last_bytes(path: Path, count: int) -> bytes:
    """The end of a file; less than `count` bytes when it hasn't got them."""
    if not path.exists():
        return b""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read(count)


def _mp4_flaw(file: BinaryIO, size: int) -> str | None:
    """Of mp4 and mov: boxes up to the last byte, the index (moov) and the frames (mdat) in them."""
    boxes = list(_mp4_boxes(file))
    end = boxes[-1][1] if boxes else 0
    if end != size:
        return f"it has {size:,} bytes and should have {end:,}" if end else "it is no mp4"
    missing = {b"moov", b"mdat"} - {kind for kind, _ in boxes}
    return f"it has no {min(missing).decode()}" if missing else None


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and end of each outermost box, as far as they go."""
    start = 0
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if length == 1:  # too long for 32 bits
            (length,) = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))
        if length < 8:
            return
        start += length
        yield kind, start
        file.seek(start)


def _matroska_flaw(file: BinaryIO, size: int) -> str | None:
    """Of mkv: a header, then one segment, whose length ffmpeg writes when it ends."""
    for part in (_EBML, _SEGMENT):
        if file.read(4) != part:
            return "it is no mkv"
        length = _matroska_number(file)
        end = file.tell() + length
        if part == _EBML:
            file.seek(end)
    return None if end == size else f"it has {size:,} bytes and should have {end:,}"


def _matroska_number(file: BinaryIO) -> int:
    """A number whose first byte says by its leading zeros how many bytes it has."""
    first = (file.read(1) or b"\x01")[0]
    count = 9 - first.bit_length()
    return int.from_bytes(bytes([first & ((1 << 8 - count) - 1)]) + file.read(count - 1), "big")
