"""What a film's file says of itself, without decoding more than one picture."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ...errors import MogaError
from ...video.complaints import plain
from .container import opened
from .records import Facts, Source

_COMMON = (Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30),
           Fraction(50), Fraction(60000, 1001), Fraction(60))  # fmt: skip
_HDR = {16: "PQ", 18: "HLG"}  # transfer curves, by their numbers in H.273
_SLACK = Fraction(1, 200)  # between the rate that is written and the one that is there


class FilmError(MogaError, ValueError):
    """A film that is of no use; the message says why, with the decoder's words."""


def examine(source: Source, fps_most: float) -> Source:
    """The source with its facts, size, rate and length.

    The rate is the film's own, or a half, a third and so on of it where that is above `fps_most`.
    Raises FilmError.
    """
    import av

    try:
        with opened(source.path) as container:
            stream = _pictures(container)
            first, timing = _first(container, stream), _timing(container, stream)
            return _described(
                source, stream, first, timing, fps_most, bool(container.streams.audio)
            )
    except (av.FFmpegError, OSError) as error:
        words = plain(getattr(error, "strerror", None) or str(error))
        raise FilmError(f"cannot be read ({words}); replace the file.") from None


def _pictures(container: Any) -> Any:
    import av

    covers = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        what = "sound alone" if container.streams.audio else "no pictures"
        raise FilmError(f"holds {what}; take it out.")
    return streams[0]


def _first(container: Any, stream: Any) -> Any:
    """The first picture. Raises FilmError for none."""
    import av

    try:
        frame = next(container.decode(stream), None)
    except av.FFmpegError as error:
        raise FilmError(f"cannot be decoded ({plain(error.strerror)}); replace the file.") from None
    if frame is None:
        raise FilmError("holds no picture that can be decoded; replace the file.")
    return frame


class _Timing:
    """When pictures are shown, in ticks of the stream: taken from one packet after another."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self.last = self.before = None
        self.end = 0
        self.least, self.most = None, 0

    def take(self, packet: Any) -> None:
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is None or packet.size == 0:
            return
        self.count += 1
        self.first = shown if self.first is None else min(self.first, shown)
        self.last = shown if self.last is None else max(self.last, shown)
        self.end = max(self.end, shown + (packet.duration or 0))
        if packet.dts is not None:
            if self.before is not None and self.count > 3:
                step = packet.dts - self.before
                self.least = step if self.least is None else min(self.least, step)
                self.most = max(self.most, step)
            self.before = packet.dts

    def variable(self) -> bool:
        """Whether steps differ by more than the ticks that they are rounded to."""
        return self.least is not None and self.most - self.least > max(2, self.most // 10)


def _timing(container: Any, stream: Any) -> _Timing:
    container.seek(0)
    timing = _Timing()
    for packet in container.demux(stream):
        timing.take(packet)
    return timing


def _described(
    source: Source, stream: Any, frame: Any, timing: _Timing, fps_most: float, has_audio: bool
) -> Source:
    rate = _rate(stream, timing)
    divisor = -(-rate // Fraction(fps_most).limit_denominator(1001)) or 1
    facts = _facts(source, stream, frame, timing.variable(), has_audio)
    width, height = frame.width, frame.height
    if facts.pixel_aspect > 1:
        width = round(width * facts.pixel_aspect)
    elif facts.pixel_aspect < 1:
        height = round(height / facts.pixel_aspect)
    if facts.rotation % 180:
        width, height = height, width
    fps = rate / divisor
    ticks = max(timing.end, timing.last + 1) - timing.first
    frames = max(1, round(ticks * stream.time_base * fps))
    return replace(source, width=width, height=height, fps=fps, frames=frames, facts=facts)


def _rate(stream: Any, timing: _Timing) -> Fraction:
    """Pictures in a second: as written where that is so, else as measured."""
    written = stream.guessed_rate or stream.average_rate
    span = (timing.last - timing.first) * stream.time_base
    if timing.count < 2 or not span:
        return written or Fraction(25)
    measured = (timing.count - 1) / Fraction(span)
    if timing.variable():
        return Fraction(max(1, round(measured)))
    if written and abs(written - measured) <= _SLACK * measured:
        return written
    near = min(_COMMON, key=lambda rate: abs(rate - measured))
    if abs(near - measured) <= measured / 20:
        return near
    return measured.limit_denominator(1001)


def _facts(source: Source, stream: Any, frame: Any, variable_rate: bool, has_audio: bool) -> Facts:
    context = stream.codec_context
    aspect = stream.sample_aspect_ratio
    return Facts(
        codec=context.name,
        pixel_format=frame.format.name,
        stored=(frame.width, frame.height),
        bytes=os.path.getsize(source.path),
        bits=max(part.bits for part in frame.format.components),
        rotation=-round(frame.rotation) % 360,
        pixel_aspect=Fraction(aspect) if aspect else Fraction(1),
        interlaced=bool(frame.interlaced_frame),
        hdr=_HDR.get(int(frame.color_trc or 0), ""),
        variable_rate=variable_rate,
        has_audio=has_audio,
    )
