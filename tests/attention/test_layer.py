"""The MoGA layer: fast path == reference == a direct reading of the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moga.attention import moga_attention, moga_attention_reference
from moga.config import BRANCHES, COMBINES, MoGAConfig
from moga.kernels import BACKENDS, BackendError
from moga.layout import VideoLayout, windows
from moga.routing import Routing

BATCH, HEADS, WIDTH = 2, 2, 8


@st.composite
def layers(draw, frames=24, height=4, width=5):
    """A layer's inputs in float64: odd grids, 1 to 20 shots, empty and one-token groups."""
    frames = draw(st.integers(1, frames))
    height, width = draw(st.integers(1, height)), draw(st.integers(1, width))
    cuts = draw(st.sets(st.integers(1, frames - 1), max_size=19)) if frames > 1 else set()
    layout = VideoLayout(frames, height, width, (0, *sorted(cuts)))
    config = MoGAConfig(
        groups=draw(st.sampled_from([1, 2, 5, 20, 256])),
        windows=draw(st.sampled_from([(1, 1), (2, 2), (4, 4), (1, 3)])),
        window_frames=draw(st.sampled_from([1, 2, 10])),
        boundary_frames=draw(st.integers(0, 3)),
        gate=draw(st.booleans()),
        combine=draw(st.sampled_from(COMBINES)),
        branches=draw(st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True).map(tuple)),
    )
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (BATCH, layout.tokens, HEADS, WIDTH)
    q, k, v = (torch.randn(shape, generator=make, dtype=torch.float64) for _ in range(3))
    # A spread-out scale makes some groups crowded and others empty.
    scale = draw(st.sampled_from([0.0, 1.0, 30.0]))
    scores = torch.randn(BATCH, layout.tokens, config.groups, generator=make) * scale
    return q, k, v, scores, layout, config


def by_definition(q, k, v, routing, layout, config):
    """Token by token, straight from the words of the method."""
    out = torch.zeros_like(q)
    boxes = windows(layout, config)
    for b in range(q.shape[0]):
        for i in range(layout.tokens):
            branches, masses = [], []
            for branch in config.branches:
                keys = _keys(branch, b, i, routing, layout, boxes)
                scores = torch.einsum("nd,knd->nk", q[b, i], k[b, keys]) / math.sqrt(q.shape[-1])
                result = torch.einsum("nk,knd->nd", scores.softmax(-1), v[b, keys])
                if branch == "routed" and config.gate and config.combine == "mean":
                    result = result * routing.gate[b, i]
                branches.append(result)
                masses.append(scores.exp().sum(-1))
            if config.combine == "mean":
                out[b, i] = sum(branches) / len(branches)
            else:
                weighted = [m[:, None] * r for m, r in zip(masses, branches, strict=True)]
                out[b, i] = sum(weighted) / sum(masses)[:, None]
    return out


def _keys(branch, b, i, routing, layout, boxes):
    t, rest = divmod(i, layout.frame_tokens)
    h, w = divmod(rest, layout.width)
    if branch == "routed":
        return [j for j in range(layout.tokens) if routing.group[b, j] == routing.group[b, i]]
    if branch == "frames":
        return [t * layout.frame_tokens + j for j in range(layout.frame_tokens)]
    for box in boxes:
        spans = (box.frames, box.rows, box.columns)
        if all(lo <= at < hi for at, (lo, hi) in zip((t, h, w), spans, strict=True)):
            return [
                (tt * layout.height + hh) * layout.width + ww
                for tt in range(*box.key_frames)
                for hh in range(*box.rows)
                for ww in range(*box.columns)
            ]
    raise AssertionError("a token outside every window")


@settings(max_examples=25)
@given(layers(frames=8, height=3, width=2))
def test_reference_is_the_definition(layer):
    q, k, v, scores, layout, config = layer
    q, k, v = (t[:, :, :1, :4] for t in (q, k, v))
    routing = Routing.from_scores(scores)
    expected = by_definition(q, k, v, routing, layout, config)
    found = moga_attention_reference(q, k, v, routing, layout, config)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=150)
@given(layers())
def test_fast_path_equals_reference_forward_and_backward(layer):
    q, k, v, scores, layout, config = layer
    leaves = [t.requires_grad_() for t in (q, k, v, scores)]
    results = []
    for attention in (moga_attention, moga_attention_reference):
        routing = Routing.from_scores(scores)
        out = attention(q, k, v, routing, layout, config)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
        results.append([out, *grads])
    for fast, reference in zip(*results, strict=True):
        if reference is None:
            assert fast is None or not fast.any()
        else:
            torch.testing.assert_close(fast, reference, rtol=1e-5, atol=1e-6)


@given(layers())
def test_batch_samples_do_not_see_each_other(layer):
    q, k, v, scores, layout, config = layer
    both = moga_attention(q, k, v, Routing.from_scores(scores), layout, config)
    for b in range(BATCH):
        one = slice(b, b + 1)
        alone = moga_attention(
            q[one], k[one], v[one], Routing.from_scores(scores[one]), layout, config
        )
        torch.testing.assert_close(both[one], alone, rtol=1e-6, atol=1e-6)


def test_one_group_without_gate_is_dense_attention():
    layout = VideoLayout(3, 2, 5)
    config = MoGAConfig(groups=1, gate=False, branches=("routed",))
    q, k, v = torch.randn(3, 2, layout.tokens, 4, 16)
    routing = Routing.from_scores(torch.randn(2, layout.tokens, 1))
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in (q, k, v))
    ).transpose(1, 2)
    out = moga_attention(q, k, v, routing, layout, config)
    torch.testing.assert_close(out, dense)


def test_a_plan_made_for_inference_serves_training():
    layout, config = VideoLayout(5, 3, 3, (0, 2)), MoGAConfig(branches=("windows", "frames"))
    with torch.inference_mode():
        moga_attention(*torch.randn(3, 1, layout.tokens, 1, 8), None, layout, config)
    q = torch.randn(1, layout.tokens, 1, 8, requires_grad=True)
    moga_attention(q, q, q, None, layout, config).sum().backward()
    assert q.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_the_reference(dtype):
    layout, config = VideoLayout(6, 4, 4, (0, 2)), MoGAConfig(groups=3)
    q, k, v = torch.randn(3, 2, layout.tokens, 2, 16).to(dtype)
    routing = Routing.from_scores(torch.randn(2, layout.tokens, 3))
    out = moga_attention(q, k, v, routing, layout, config)
    assert out.dtype == dtype
    expected = moga_attention_reference(q, k, v, routing, layout, config)
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)


def _inputs(layout, groups=5, batch=1):
    q = torch.randn(batch, layout.tokens, 1, 8)
    return q, Routing.from_scores(torch.randn(batch, layout.tokens, groups))


@pytest.mark.parametrize("attention", [moga_attention, moga_attention_reference])
def test_shapes_that_do_not_belong_together_are_refused(attention):
    layout, config = VideoLayout(2, 2, 2), MoGAConfig()
    q, routing = _inputs(layout)
    other, other_routing = _inputs(VideoLayout(3, 2, 2))
    cases = [
        ((q[0], q[0], q[0], routing), "give three equal"),
        ((q, q[:, :4], q, routing), "give three equal"),
        ((other, other, other, other_routing), "q has 12 tokens, but the layout of 2 x 2 x 2"),
        ((q, q, q, other_routing), "routing is for (1, 12) tokens"),
        ((q, q, q, None), "routing is None"),
        ((q, q, q, _inputs(layout, groups=4)[1]), "routing has 4 groups, config 5"),
    ]
    for (a, b, c, r), words in cases:
        with pytest.raises(ValueError) as error:
            attention(a, b, c, r, layout, config)
        assert words in str(error.value)


def test_a_backend_that_cannot_run_is_an_error_with_a_way_out():
    layout, config = VideoLayout(2, 2, 2), MoGAConfig()
    q, routing = _inputs(layout)
    for name in [name for name in BACKENDS if name != "sdpa"]:
        with pytest.raises(BackendError, match="choose 'auto' or 'sdpa'"):
            moga_attention(q, q, q, routing, layout, config, backend=name)
    with pytest.raises(BackendError, match="backend is 'best'; choose one of auto,"):
        moga_attention(q, q, q, routing, layout, config, backend="best")
