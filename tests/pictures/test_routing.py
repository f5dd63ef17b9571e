"""The picture of what routing does: whatever was inspected, its words stand apart and inside."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL")

from PIL import ImageColor

from moga.config import MoGAConfig
from moga.diagnostics import Cell, Inspection, Request, drawn_frames
from moga.layout import VideoLayout
from moga.pictures import heat
from moga.pictures.pen import Pen
from moga.pictures.routing import Frame, draw_routing, frame_label

NARROW = 1000  # pixels, at which it has to be read


def inspection(blocks=7, levels=3, groups=5, size=(13, 15, 26), shots=(0, 5, 9), most=0.4, seed=0):
    make, layout = np.random.default_rng(seed), VideoLayout(*size, shots)
    branches = ("routed", "windows", "frames") if groups else ("windows", "frames")
    config = MoGAConfig(groups=groups or 5, branches=branches)
    noise = tuple(np.linspace(0.95, 0.05, levels).round(3).tolist())
    drawn_size = (len(drawn_frames(layout)), *size[1:])
    cells = []
    for level in noise:
        for block in range(blocks):
            routed = {}
            if groups:
                shares = make.multinomial(layout.tokens, make.dirichlet([1.0] * groups))
                maps = make.integers(groups, size=drawn_size).astype(np.uint8)
                routed = {"gate": 0.4, "sizes": tuple(shares.tolist()), "groups": maps}
            error, near = most * make.random(), make.random() / 2
            cells.append(Cell(block, level, error, 2 * near, 0.3, near, near, **routed))
    request = Request(noise, frozenset(range(blocks)))
    return Inspection(request, config, layout, tuple(cells))


def frames_for(found, pixels=True):
    height, width = 8 * found.layout.height, 8 * found.layout.width
    picture = np.full((height, width, 3), 128, np.uint8) if pixels else None
    return [Frame(frame_label(11, frame, 16), picture) for frame in drawn_frames(found.layout)]


def drawn(found, *, pixels=True, title="What routing does in a model", width=1600):
    """The picture, and the box of every text in it, in pixels: (left, top, right, bottom, text)."""
    words = []
    real = Pen.text

    def note(pen, x, baseline, text, size, fill):
        top, right = baseline - 0.8 * size, x + pen.length(text, size)
        words.append((x, top, right, baseline + 0.1 * size, text, size))
        return real(pen, x, baseline, text, size, fill)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pen, "text", note)
        image = draw_routing(found, title, "5 groups", frames_for(found, pixels), width)
    scale = width / 1600
    return image, [(*(v * scale for v in word[:4]), word[4], word[5] * scale) for word in words]


@settings(deadline=None, max_examples=25)
@given(
    blocks=st.integers(1, 60),
    levels=st.integers(1, 6),
    groups=st.sampled_from([0, 1, 2, 5, 8, 9, 20, 21, 64, 256]),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 52)),
    most=st.sampled_from([0.0, 0.01, 0.4, 12.0]),
)
@example(blocks=40, levels=3, groups=20, size=(60, 45, 26), most=0.4)
@example(blocks=30, levels=20, groups=256, size=(21, 30, 52), most=1.0)
def test_words_stand_apart_and_inside(blocks, levels, groups, size, most):
    found = inspection(blocks, levels, groups, size, (0,), most)
    image, words = drawn(found, width=NARROW)
    assert image.mode == "RGB" and image.width == NARROW
    for left, top, right, bottom, text, size in words:
        assert left >= 0 and top >= 0 and right <= NARROW + 1 and bottom <= image.height, text
        assert size >= 13, f"{text} is {size:.0f} pixels high"
    for one, other in combinations(words, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, f"{one[4]!r} and {other[4]!r} overlap"


def test_a_long_title_is_cut():
    _, words = drawn(inspection(), title="x" * 500)
    assert all(right <= 1600 for _, _, right, *_ in words)


def test_every_token_has_the_colour_of_its_group():
    found = inspection(groups=5)
    image, _ = drawn(found, pixels=False)
    colours = {ImageColor.getrgb(heat.group_colour(group)) for group in range(5)}
    seen = {colour for _, colour in image.getcolors(1 << 24)}
    assert colours <= seen


def test_twenty_groups_have_colours_that_differ():
    colours = [np.array(ImageColor.getrgb(heat.group_colour(group))) for group in range(20)]
    assert min(np.abs(a - b).max() for a, b in combinations(colours, 2)) >= 40
    assert heat.group_colour(20) == heat.group_colour(0)


def test_suggested_blocks_are_framed_and_named():
    cells = [Cell(b, 0.5, 0.9 if b == 3 else 0.2, 0.5, 0.3, 0.3, 0.2) for b in range(8)]
    config = MoGAConfig(branches=("windows", "frames"))
    request = Request((0.5,), frozenset(range(8)))
    found = Inspection(request, config, VideoLayout(4, 4, 4), tuple(cells))
    framed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pen, "frame", lambda pen, *edges: framed.append(edges))
        _, words = drawn(found)
    assert len(framed) == 1
    assert "Better left dense (framed): dense_blocks 3" in [word[4] for word in words]
