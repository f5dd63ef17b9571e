"""The tables of docs/planner.md: one to 1,024 cards, with what holds more of them back."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import MoGAConfig
from .cards import GB, Card, Network
from .estimate import Estimate
from .generation import Sampling
from .geometry import film_of
from .models import MODELS, Model
from .options import Request
from .passes import EXCHANGE, FAR, NEAR, SORTING
from .planned import Best, best_learning, best_sampling
from .report import duration, sources
from .training import GATHERS, SUMS, Learning

COUNTS = tuple(2**power for power in range(11))
CLIPS = 64
_SAMPLING = Sampling(steps=30, guided=True)
_LEARNING = Learning(clips=CLIPS, ema=True)
_HEAD = ("efficiency", "GB a card", "held back by")
_GOOD = 0.95  # efficiency from which on nothing has to be explained


Row = tuple[str, ...]


@dataclass(frozen=True)
class Length:
    """A film as the paper trains on. config: groups and windows of that length."""

    seconds: int
    fps: str
    config: MoGAConfig


_LENGTHS = (
    Length(30, "16", MoGAConfig(groups=5, windows=(2, 2))),
    Length(60, "24", MoGAConfig(groups=20, windows=(4, 4))),
)


def markdown(card: Card, network: Network) -> str:
    """Generation and training of 1.3B and 14B, 30 s and 60 s, as Markdown."""
    lines = []
    for name in ("1.3B", "14B"):
        for length in _LENGTHS:
            lines += _section(MODELS[name], length, card, network)
    notes = [f"- {note}" for note in sources(card, network)]
    return "\n".join([*lines, *notes]) + "\n"


def _section(model: Model, length: Length, card: Card, network: Network) -> list[str]:
    film = film_of(model, length.config, length.seconds, length.fps, (832, 480))
    rows, columns = length.config.windows
    title = (
        f"### {model.name}, {length.seconds} s: {film.frames:,} frames, "
        f"{film.layout.tokens:,} tokens, {length.config.groups} groups, {rows}x{columns} windows"
    )

    def request(cards: int, sampling: Sampling | None, learning: Learning | None) -> Request:
        return Request(film, cards, card, network, card.backend, sampling, learning)

    sampled = _points(best_sampling, [request(cards, _SAMPLING, None) for cards in COUNTS])
    learned = _points(best_learning, [request(cards, None, _LEARNING) for cards in COUNTS])
    return [
        *(title, "", f"Generating, {_SAMPLING.steps} steps with guidance:", ""),
        *_lines(
            ("cards", "ranks x halves x films", "a film", "times faster", *_HEAD),
            [_sampling_cells(point) for point in sampled],
        ),
        *("", f"Training all weights with their average, {CLIPS} clips a step:", ""),
        *_lines(
            ("cards", "ranks x clips at once", "a step", "1,000 steps", *_HEAD),
            [_learning_cells(point) for point in learned],
        ),
        "",
    ]


@dataclass(frozen=True)
class Point:
    """A number of cards, the best that they can do, and the same of the fewest that it fits on."""

    request: Request
    best: Estimate
    fits: bool
    first: Point | None

    @property
    def work(self) -> float:
        """Films at once, or clips of a step."""
        learning = self.request.learning
        return self.best.arrangement.copies if learning is None else learning.clips

    @property
    def card_seconds(self) -> float:
        """Of one film's step, or of one clip."""
        return self.best.step * self.request.gpus / self.work


def _points(best: Best, requests: list[Request]) -> list[Point]:
    points: list[Point] = []
    for request in requests:
        first = next((point for point in points if point.fits), None)
        points.append(Point(request, *best(request), first))
    return points


def _sampling_cells(point: Point) -> Row:
    how = point.best.arrangement
    faster = (point.first or point).best.step / point.best.step
    return (
        f"{point.request.gpus:,}",
        f"{how.sequence} x {how.halves} x {how.copies:,}",
        *_if_fits(point, duration(_SAMPLING.steps * point.best.step), f"{faster:.1f}"),
    )


def _learning_cells(point: Point) -> Row:
    how, step = point.best.arrangement, point.best.step
    return (
        f"{point.request.gpus:,}",
        f"{how.sequence} x {how.copies:,}",
        *_if_fits(point, duration(step), duration(1000 * step)),
    )


def _if_fits(point: Point, *times: str) -> Row:
    held = f"{point.best.bytes_held / GB:.1f}"
    if not point.fits:
        return ("-",) * len(times) + ("-", held, "memory: does not fit")
    efficiency = (point.first or point).card_seconds / point.card_seconds
    why = "" if efficiency >= _GOOD else _reason(point)
    return (*times, f"{efficiency:.2f}", held, why)


def _reason(point: Point) -> str:
    """What costs most card-seconds that the fewest cards do not pay."""
    how, heads = point.best.arrangement, point.request.film.model.heads
    idle = 1 - how.cards / point.request.gpus
    learning = point.request.learning is not None
    shares = {name: _share(point, name) for name in point.best.seconds}
    name, most = max(shares.items(), key=lambda item: item[1])
    if idle > most:
        limit = f"{heads} heads x {CLIPS} clips" if learning else f"{heads} heads x 2 halves"
        return f"{1 - how.cards / point.request.gpus:.0%} of the cards idle: {limit}"
    if name in (FAR, NEAR) and heads % how.sequence:
        return f"{heads} heads do not divide: some ranks have {-(-heads // how.sequence)}"
    across = how.sequence > point.request.network.host_cards
    words = {
        EXCHANGE: f"all-to-all{' between hosts' if across else ''}",
        "cross-attention": "texts' k and v, which every card works out",
        SORTING: "sorting by group, which every card does",
        GATHERS: "gathering weights",
        SUMS: "summing gradients",
    }
    return words.get(name, name)


def _share(point: Point, name: str) -> float:
    """Card-seconds of a part that the first point does not have, over all that this one has."""
    first = point.first or point
    whole = point.card_seconds
    own = point.best.seconds[name] / point.best.step * whole
    had = first.best.seconds.get(name, 0.0) / first.best.step * first.card_seconds
    return (own - had) / whole


def _lines(head: Row, rows: list[Row]) -> list[str]:
    return [_line(head), _line(("---",) * len(head)), *map(_line, rows)]


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"
