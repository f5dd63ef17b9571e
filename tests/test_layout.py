"""VideoLayout and the static windows, against the definitions of the method."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.config import MoGAConfig
from moga.flops import density
from moga.layout import LayoutError, VideoLayout, windows


@st.composite
def layouts(draw, frames=st.integers(1, 40), side=st.integers(1, 9)):
    count = draw(frames)
    cuts = draw(st.sets(st.integers(1, count - 1), max_size=19)) if count > 1 else set()
    return VideoLayout(count, draw(side), draw(side), (0, *sorted(cuts)))


configs = st.builds(
    MoGAConfig,
    windows=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    window_frames=st.integers(1, 12),
    boundary_frames=st.integers(0, 3),
)


@given(layouts(), configs)
def test_windows_tile_the_grid(layout, config):
    seen = np.zeros((layout.frames, layout.height, layout.width), int)
    for w in windows(layout, config):
        seen[slice(*w.frames), slice(*w.rows), slice(*w.columns)] += 1
    assert (seen == 1).all()


@given(layouts(), configs)
def test_temporal_groups_follow_the_definition(layout, config):
    spans = layout.shot_spans
    expected = []
    for index, (start, stop) in enumerate(spans):
        count = -(-(stop - start) // config.window_frames)
        for run in np.array_split(np.arange(start, stop), count):
            first, last = int(run[0]), int(run[-1]) + 1
            key_first, key_last = first, last
            if first == start and index > 0:
                before = spans[index - 1]
                key_first -= min(config.boundary_frames, before[1] - before[0])
            if last == stop and index + 1 < len(spans):
                after = spans[index + 1]
                key_last += min(config.boundary_frames, after[1] - after[0])
            expected.append(((first, last), (key_first, key_last)))
    found = sorted({(w.frames, w.key_frames) for w in windows(layout, config)})
    assert found == expected


@given(layouts(), configs)
def test_spatial_windows_are_numpy_array_split(layout, config):
    for name, size, parts in (
        ("rows", layout.height, config.windows[0]),
        ("columns", layout.width, config.windows[1]),
    ):
        split = [part for part in np.array_split(np.arange(size), parts) if len(part)]
        expected = {(int(part[0]), int(part[-1]) + 1) for part in split}
        assert {getattr(w, name) for w in windows(layout, config)} == expected


@given(layouts())
def test_shots_cover_the_video(layout):
    assert layout.shot_spans[0][0] == 0
    assert layout.shot_spans[-1][1] == layout.frames
    assert all(a[1] == b[0] for a, b in pairwise(layout.shot_spans))


def test_density_of_the_papers_ten_second_row():
    layout = VideoLayout(40, 30, 52)
    assert density(layout, MoGAConfig(groups=5, combine="mean")) == pytest.approx(0.2875)
    near = 1 / 16 + 1 / 40 - 1 / 160  # windows, frames, and what they have in common
    assert density(layout, MoGAConfig(groups=5)) == pytest.approx(near + (1 - near) / 5)
    assert density(layout, MoGAConfig(groups=5, branches=("frames",))) == pytest.approx(1 / 40)


def test_density_of_uneven_groups_is_the_sum_of_squares():
    layout = VideoLayout(10, 1, 1)
    config = MoGAConfig(groups=2, branches=("routed",))
    assert density(layout, config, [9, 1]) == pytest.approx(0.82)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, 2, 2), "frames is 0"),
        ((2, 2.5, 2), "height is 2.5"),
        ((4, 2, 2, ()), "ascending, starting with 0"),
        ((4, 2, 2, (1,)), "ascending, starting with 0"),
        ((4, 2, 2, (0, 2, 2)), "ascending, starting with 0"),
        ((4, 2, 2, (0, 4)), "only 4 frames; make the video longer or use fewer shots"),
    ],
)
def test_refused_layouts(values, words):
    with pytest.raises(LayoutError) as error:
        VideoLayout(*values)
    assert words in str(error.value)
