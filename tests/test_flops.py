"""Operation counts against the paper's tables."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moga.attention import visible
from moga.config import BRANCHES, MoGAConfig
from moga.flops import WAN_14B, computed, density, expected_speedup, layer_flops, model_flops
from moga.layout import VideoLayout


def clip(frames):
    return VideoLayout((frames - 1) // 4 + 1, 30, 52)


@pytest.mark.parametrize(
    ("frames", "peta"), [(81, 0.28), (157, 0.88), (237, 1.85), (317, 3.19), (477, 6.94)]
)
def test_dense_forward_is_the_papers_table_5(frames, peta):
    """To the last digit printed (1.858 as 1.85); the first row fits 81 frames, not 77."""
    found = model_flops(clip(frames), None).total / 1e15
    assert found == pytest.approx(peta, abs=0.01)


@pytest.mark.parametrize(("groups", "percent"), [(2, 41.25), (4, 66.25), (8, 78.75)])
def test_sparsity_is_the_papers_table_4(groups, percent):
    found = 1 - density(VideoLayout(40, 30, 52), MoGAConfig(groups, combine="mean"))
    assert 100 * found == pytest.approx(percent, abs=0.005)


def test_the_row_of_table_4_that_breaks_its_own_rule():
    found = 1 - density(VideoLayout(40, 30, 52), MoGAConfig(16, combine="mean"))
    assert 100 * found == pytest.approx(85.0, abs=0.005)  # 81.25 in print


def test_the_papers_moga_columns_follow_no_one_rule():
    config = MoGAConfig(20, combine="mean")
    short, long = (model_flops(clip(frames), config) for frames in (77, 477))
    assert short.linear / 1e15 > 0.051  # the paper's total is below the linear layers alone
    assert long.total / 1e15 < 1.22  # and here above all that has to be computed


def test_skewed_groups_cost_more_than_equal_ones():
    layout, config = VideoLayout(4, 5, 5), MoGAConfig(2, branches=("routed",))
    assert density(layout, config) == 0.5
    assert density(layout, config, [100, 0]) == 1.0
    assert density(layout, config, [75, 25]) == 0.625


@given(
    st.integers(1, 7), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2)
)
def test_under_one_softmax_density_is_the_share_of_pairs_that_are_seen(t, h, w, cut, borrowed):
    layout = VideoLayout(t, h, w, (0, cut) if cut < t else (0,))
    near = ("windows", "frames")
    config = MoGAConfig(window_frames=2, boundary_frames=borrowed, branches=near)
    everyone = torch.arange(layout.tokens)
    masks = [visible(name, everyone, None, layout, config)[0] for name in near]
    assert density(layout, config) == pytest.approx(float((masks[0] | masks[1]).float().mean()))
    parts = [*masks, masks[0] & masks[1]]
    assert computed(layout, config) == pytest.approx(sum(float(m.float().mean()) for m in parts))
    assert density(layout, MoGAConfig(1, branches=BRANCHES)) == pytest.approx(1)


def test_a_model_is_its_layers_and_long_videos_gain_more():
    layout, config = clip(477), MoGAConfig()
    layer, model = layer_flops(layout, config, WAN_14B), model_flops(layout, config, WAN_14B)
    assert model.total == pytest.approx(40 * layer.total)
    assert 1 < expected_speedup(clip(77), config) < expected_speedup(layout, config)


@given(st.integers(0, 40), st.integers(2, 60), st.integers(1, 20))
def test_each_dense_layer_costs_what_dense_does(dense_layers, frames, groups):
    layout, config = VideoLayout(frames, 6, 10), MoGAConfig(groups)
    mixed = model_flops(layout, config, WAN_14B, dense_layers=dense_layers)
    one, other = (layer_flops(layout, c, WAN_14B) for c in (None, config))
    expected = dense_layers * one.total + (40 - dense_layers) * other.total
    assert mixed.total == pytest.approx(expected)
    gain = expected_speedup(layout, config, WAN_14B, dense_layers=dense_layers)
    assert gain == pytest.approx(40 * one.total / expected)
