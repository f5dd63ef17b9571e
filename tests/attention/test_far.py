"""What is far, by ranges with a mask and as segments with signs, is the same."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moga.attention import visible
from moga.attention.far import far_in_segments, far_of
from moga.config import ConfigError, MoGAConfig
from moga.kernels.far import slices
from moga.layout import VideoLayout
from moga.routing import Routing


@st.composite
def cases(draw):
    frames = draw(st.integers(1, 9))
    cuts = draw(st.sets(st.integers(1, frames - 1), max_size=3)) if frames > 1 else set()
    layout = VideoLayout(
        frames, draw(st.integers(1, 4)), draw(st.integers(1, 5)), (0, *sorted(cuts))
    )
    config = MoGAConfig(
        draw(st.sampled_from([1, 2, 5, 20])),
        draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
        draw(st.sampled_from([1, 2, 10])),
        draw(st.integers(0, 2)),
        branches=("routed", *draw(st.sets(st.sampled_from(["windows", "frames"])))),
    )
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return layout, config, torch.randint(config.groups, (2, layout.tokens), generator=make)


def by_definition(layout, config, group):
    """(2 * L, 2 * L): which tokens of both samples see which."""
    routing = Routing(None, group, torch.ones(group.shape), config.groups)
    everyone = torch.arange(layout.tokens)
    far = visible("routed", everyone, routing, layout, config)
    for name in config.branches[1:]:
        far = far & ~visible(name, everyone, routing, layout, config)
    return torch.block_diag(*far.int())


@settings(max_examples=100)
@given(cases())
def test_far_is_the_group_less_what_is_near(case):
    layout, config, group = case
    index, place, keys = far_of(group, layout, config)
    assert index[place.long()].tolist() == list(range(2 * layout.tokens))
    found = torch.zeros(2 * layout.tokens, 2 * layout.tokens, dtype=torch.int32)
    for rows, columns, bias in slices(keys, torch.float32):
        found[rows, columns] += (bias == 0).int()
    seen = torch.zeros_like(found)
    seen[index[:, None], index] = found
    assert torch.equal(seen, by_definition(layout, config, group))


@settings(max_examples=100)
@given(cases(), st.booleans())
def test_codes_say_what_is_near(case, as_halves):
    layout, config, group = case
    keys = far_of(group, layout, config)[2]
    keys = dataclasses.replace(keys, bits=keys.bits and not as_halves)
    code = keys.code.long()
    both = code[:, None], code[None, :]
    apart = both[0] ^ both[1]
    upper, lower = apart.bitwise_and(-65536) == 0, apart.bitwise_and(65535) == 0
    near = {0: lower & False, 1: both[0] & both[1] != 0, 2: upper, 3: lower, 4: upper | lower}
    for first, last, low, high in zip(
        keys.cu[:-1].tolist(), keys.cu[1:].tolist(), keys.near_start.tolist(),
        keys.near_stop.tolist(), strict=True,
    ):  # fmt: skip
        rows, columns = slice(first, last), slice(low, high)
        expected = torch.zeros(last - first, high - low, dtype=torch.bool)
        for of in (keys.frame, keys.window):
            if of is not None:
                expected |= of[rows, None] == of[columns]
        if keys.coding:
            assert torch.equal(near[keys.coding][rows, columns], expected)
        else:
            assert high == low


@settings(max_examples=100)
@given(cases())
def test_segments_with_signs_are_the_same(case):
    layout, config, group = case
    seen = torch.zeros(2 * layout.tokens, 2 * layout.tokens, dtype=torch.int32)
    for packing, sign in far_in_segments(group, layout, config):
        at_q = at_k = 0
        for queries, keys in packing.segments.on_host():
            rows = packing.queries[at_q : at_q + queries]
            seen[rows[:, None], packing.keys[at_k : at_k + keys]] += sign
            at_q, at_k = at_q + queries, at_k + keys
            assert queries <= packing.segments.max_q and keys <= packing.segments.max_k
        assert (at_q, at_k) == (len(packing.queries), len(packing.keys))
    assert torch.equal(seen, by_definition(layout, config, group))


def test_more_windows_than_a_code_tells_apart_are_refused():
    layout, config = VideoLayout(1, 300, 300), MoGAConfig(windows=(300, 300))
    group = torch.zeros(1, layout.tokens, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"makes 90,000 of a frame .* give fewer, at most 65,536"):
        far_of(group, layout, config)
