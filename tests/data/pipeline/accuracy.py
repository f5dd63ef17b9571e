"""Found boundaries held against joins that are known."""

from dataclasses import dataclass
from pathlib import Path

from joined import PIECES, Join, join

from moga.data.pipeline.facts import examine
from moga.data.pipeline.records import Film
from moga.data.pipeline.settings import Settings
from moga.data.pipeline.sources import find_sources
from moga.data.pipeline.split import split

LENGTHS = (8, 30, 12, 24, 16, 20) * 2  # of neighbours, so that a shot is left between
LONG = [piece for piece in PIECES if piece.frames >= 56]
KINDS = ("cut", "dissolve", "fade")


def source_of(path, settings=None):
    """The source of one film, looked at."""
    (source,) = find_sources([Path(path)], Path("none")).sources
    return examine(source, (settings or Settings()).probe.fps_most)


def known_film(path, kind, count=12):
    """A film with `count` joins of a kind, or of all three in turn ("mixed"), and the joins."""
    kinds = [KINDS[n % 3] if kind == "mixed" else kind for n in range(count)]
    joins = [Join(k, 0 if k == "cut" else n) for k, n in zip(kinds, LENGTHS[:count], strict=True)]
    return join(path, LONG[: count + 1], joins)[0]


def shots_of(path, learned, threads=1):
    """The film split, with the learned detector "always", in "doubt" or "never"."""
    return split(Film(source_of(path)), Settings(split={"learned": learned}), threads)


@dataclass(frozen=True)
class Accuracy:
    """found: joins that a boundary of the right kind is at. total: joins. false: boundaries that no
    join is near. off: frames by which ends of found transitions are beside the truth, at most."""

    found: int
    total: int
    false: int
    off: int

    @property
    def precision(self):
        return self.found / max(1, self.found + self.false)

    @property
    def recall(self):
        return self.found / self.total


def accuracy(joins, boundaries, slack=1):
    """A cut is found by a clean cut within `slack` frames, a transition by one that overlaps it."""
    found, off, used = 0, 0, set()
    for one in joins:
        first, last = one.first, one.first + one.frames
        near = [
            b for b in boundaries
            if (b.first <= last + slack and b.last >= first - slack)
        ]  # fmt: skip
        used |= {(b.first, b.last) for b in near}
        right = [b for b in near if (b.kind == "cut") == (one.kind == "cut")]
        if right:
            found += 1
            best = max(right, key=lambda b: min(b.last, last) - max(b.first, first))
            if one.kind != "cut":
                off = max(off, abs(best.first - first), abs(best.last - last))
    false = sum((b.first, b.last) not in used for b in boundaries)
    return Accuracy(found, len(joins), false, off)
