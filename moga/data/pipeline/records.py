"""What the pipeline knows of a film, a shot and a sample: frozen, and exact in JSON.

Frames are counted from 0 at the rate that the source is read at, ends are exclusive. Rectangles
are in pixels of the picture as it is shown: turned upright, pixels square.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeVar

from ...errors import MogaError

T = TypeVar("T")
BoundaryKind = Literal["start", "cut", "transition", "end"]


class RecordError(MogaError, ValueError):
    """JSON that is no such record."""


@dataclass(frozen=True)
class Decision:
    """Why something was kept or dropped.

    stage: that decided. measure, value, limit: what was measured, and held against what; None where
    nothing was. reason: plain words.
    """

    stage: str
    kept: bool
    reason: str
    measure: str = ""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels; x and y of its corner at the upper left."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Text:
    """Text that stays: where, in which share of the sampled frames, and how sure the reader was."""

    box: Box
    share: float
    confidence: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What the file says of itself.

    rotation: degrees clockwise that a player turns it by. pixel_aspect: width of a pixel over its
    height. hdr: "" or the name of the transfer curve. stored: width and height as coded.
    """

    codec: str
    pixel_format: str
    stored: tuple[int, int]
    bytes: int
    bits: int = 8
    rotation: int = 0
    pixel_aspect: Fraction = Fraction(1)
    interlaced: bool = False
    hdr: str = ""
    variable_rate: bool = False
    has_audio: bool = False


@dataclass(frozen=True)
class Source:
    """A film.

    id: made from its content. path: absolute. name: relative to the folder that was asked for, what
    globs of the settings are held against. width, height: as shown. fps: the constant rate that it
    is read at. frames: at that rate. scores: by measure. facts is None for a file that could not be
    opened. learned: whether the learned cut detector looked at it, "always", "doubt" or "never".
    """

    id: str
    path: str
    name: str
    width: int = 0
    height: int = 0
    fps: Fraction = Fraction(0)
    frames: int = 0
    facts: Facts | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    kept: bool = True
    learned: str = ""

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps if self.fps else Fraction(0)


@dataclass(frozen=True)
class Boundary:
    """Where one shot goes over into the next.

    first, last: the frames of the transition, end exclusive; both the first frame of the new shot
    for a cut. detectors: the highest score of each that spoke for it.
    """

    kind: BoundaryKind
    first: int
    last: int
    detectors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shot:
    """A run of frames of one source between two boundaries, the frames of transitions left out.

    id: source id and number. index: from 0, in the source; dropped shots have one too. texts: that
    persist. crop: what is used of the picture, None for all of it. caption_source: "", "sidecar" or
    the model's name.
    """

    id: str
    source: str
    index: int
    start: int
    end: int
    before: Boundary
    after: Boundary
    scores: Mapping[str, float] = field(default_factory=dict)
    texts: tuple[Text, ...] = ()
    crop: Box | None = None
    caption: str = ""
    caption_source: str = ""
    decisions: tuple[Decision, ...] = ()
    kept: bool = True

    @property
    def frames(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class SampleShot:
    """A shot's part of a sample: its first frame there, and the frames of the source it shows."""

    shot: str
    first: int
    start: int
    end: int
    caption: str = ""


@dataclass(frozen=True)
class Sample:
    """A clip for the trainer: frames (4n + 1) at fps, out of one source.

    start: seconds into the source. crop: None for the whole picture. video: relative to the
    dataset's folder, or the source's path where `virtual`.
    """

    id: str
    source: str
    shots: tuple[SampleShot, ...]
    fps: Fraction
    frames: int
    start: Fraction
    crop: Box | None = None
    global_caption: str = ""
    video: str = ""
    virtual: bool = False
    split: Literal["train", "validation"] = "train"
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Film:
    """A source, its shots and the samples made of them: what goes from stage to stage."""

    source: Source
    shots: tuple[Shot, ...] = ()
    samples: tuple[Sample, ...] = ()


def to_json(record: Any) -> Any:
    """A record as plain JSON values; fractions are text such as "24000/1001"."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        names = [part.name for part in dataclasses.fields(record)]
        return {name: to_json(getattr(record, name)) for name in names}
    if isinstance(record, Mapping):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    return str(record) if isinstance(record, Fraction) else record


def from_json(kind: type[T], data: Any) -> T:
    """The record of class `kind` that `to_json` wrote. Raises RecordError."""
    try:
        return _read(kind, data, kind.__name__)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise RecordError(f"is no {kind.__name__} ({error}); delete it to have it made.") from None


def dumps(record: Any) -> str:
    """One line of JSON, in ASCII so that names that are not UTF-8 survive. Raises ValueError."""
    return json.dumps(to_json(record), allow_nan=False, sort_keys=True)


def loads(kind: type[T], text: str) -> T:
    """What `dumps` wrote. Raises RecordError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"is not JSON ({error}); delete it to have it made.") from None
    return from_json(kind, data)


def _read(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _record(kind, data, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        items = _of(list, data, where)
        kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else inner
        return tuple(_read(k, item, where) for k, item in zip(kinds, items, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _read(inner[1], x, where) for key, x in _of(dict, data, where).items()}
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _read(inner[0], data, where)
    if origin is Literal:
        if data not in inner:
            raise ValueError(f"{where} is {data!r}")
        return data
    if kind is Fraction:
        return Fraction(_of(str, data, where))
    if kind is float and type(data) is int:
        return float(data)
    return _of(kind, data, where)


def _record(kind: Any, data: Any, where: str) -> Any:
    hints = _hints(kind)
    parts = _of(dict, data, where)
    for name in parts:
        if name not in hints:
            raise ValueError(f"{where} has {name!r}")
    return kind(**{name: _read(hints[name], value, name) for name, value in parts.items()})


_hints = functools.cache(typing.get_type_hints)  # the slow part of reading a record


def _of(kind: type[T], data: Any, where: str) -> T:
    if type(data) is not kind:
        raise ValueError(f"{where} is {data!r}")
    return data
