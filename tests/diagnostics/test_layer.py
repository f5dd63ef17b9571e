"""Numbers of some queries == those of the full matrices, of the definition and of a softmax."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import moga.diagnostics.layer as layer_module
from moga.attention import moga_attention, moga_attention_reference, visible
from moga.config import BRANCHES, COMBINES, MoGAConfig
from moga.diagnostics import sample_layer
from moga.layout import VideoLayout
from moga.routing import Routing

HEADS, WIDTH = 2, 8


@st.composite
def layers(draw):
    """A layer's inputs in float64, of odd grids and shots, and some of its queries."""
    frames, height, width = (draw(st.integers(1, most)) for most in (8, 3, 4))
    cuts = draw(st.sets(st.integers(1, frames - 1), max_size=4)) if frames > 1 else set()
    layout = VideoLayout(frames, height, width, (0, *sorted(cuts)))
    config = MoGAConfig(
        groups=draw(st.sampled_from([1, 2, 5, 20])),
        windows=draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
        window_frames=draw(st.sampled_from([1, 2, 10])),
        boundary_frames=draw(st.integers(0, 3)),
        gate=draw(st.booleans()),
        combine=draw(st.sampled_from(COMBINES)),
        branches=draw(st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True).map(tuple)),
    )
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Of the largest scale some keys hold all of the mass, and most of the weights underflow.
    scale = draw(st.sampled_from([0.0, 1.0, 40.0]))
    q, k, v = torch.randn(3, 1, layout.tokens, HEADS, WIDTH, generator=make, dtype=torch.float64)
    scores = torch.randn(1, layout.tokens, config.groups, generator=make, dtype=torch.float64)
    count = draw(st.integers(1, layout.tokens))
    queries = torch.randperm(layout.tokens, generator=make)[:count]
    chunk = draw(st.sampled_from([1, 7, 1 << 24]))
    return q * scale, k, v, Routing.from_scores(scores * 3), layout, config, queries, chunk


def by_matrices(q, k, v, routing, layout, config):
    """Dense output, dense softmax mass (N, L, L), and what is near and seen, (L, L)."""
    scores = torch.einsum("qnd,knd->nqk", q[0], k[0]) / math.sqrt(WIDTH)
    mass = scores.softmax(dim=-1)
    everyone = torch.arange(layout.tokens)
    masks = {b: visible(b, everyone, routing, layout, config)[0] for b in config.branches}
    near = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
    for name in ("windows", "frames"):
        near = near | masks.get(name, near)
    return torch.einsum("nqk,knd->qnd", mass, v[0]), mass, near, near | masks.get("routed", near)


def measured(monkeypatch, q, k, v, routing, layout, config, queries, chunk=1 << 24):
    monkeypatch.setattr(layer_module, "_SCORES", chunk * len(queries) * HEADS)
    return sample_layer(q[0, queries], k[0], v[0], queries, routing, layout, config)


@settings(deadline=None, max_examples=150)
@given(inputs=layers())
def test_numbers_are_those_of_the_full_matrices(inputs):
    q, k, v, routing, layout, config, queries, _ = inputs
    with pytest.MonkeyPatch.context() as patch:
        found = measured(patch, *inputs)
    dense, mass, near, seen = by_matrices(q, k, v, routing, layout, config)
    moga = moga_attention_reference(q, k, v, routing, layout, config)[0]
    torch.testing.assert_close(found.dense, dense[queries])
    torch.testing.assert_close(found.moga, moga[queries])
    near_mass = (mass * near).sum(-1).mean(0)[queries]
    recall = (mass * seen).sum(-1).mean(0)[queries]
    torch.testing.assert_close(found.near, near_mass, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.recall, recall, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.seen, seen.double().mean(-1)[queries])
    error = (moga - dense)[queries].norm() / dense[queries].norm()
    assert found.error == pytest.approx(float(error), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(inputs=layers())
def test_one_group_is_dense_attention(inputs):
    q, k, v, _, layout, config, queries, chunk = inputs
    routing = Routing.from_scores(torch.zeros(1, layout.tokens, 1, dtype=torch.float64))
    branches = BRANCHES if config.combine == "union" else ("routed",)
    one = MoGAConfig(groups=1, combine=config.combine, gate=config.gate, branches=branches)
    with pytest.MonkeyPatch.context() as patch:
        found = measured(patch, q, k, v, routing, layout, one, queries, chunk)
    assert found.error < 1e-9
    torch.testing.assert_close(found.recall, torch.ones_like(found.recall))
    assert (found.seen == 1).all()


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_layer_that_runs_has_that_error(combine, dtype):
    """The fast path, in the types that models run in, against the float32 of the measurement."""
    layout, config = VideoLayout(9, 4, 6, (0, 4)), MoGAConfig(combine=combine)
    make = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, layout.tokens, HEADS, 32, generator=make).to(dtype)
    routing = Routing.from_scores(torch.randn(1, layout.tokens, 5, generator=make))
    everyone = torch.arange(layout.tokens)
    found = sample_layer(q[0], k[0], v[0], everyone, routing, layout, config)
    ran = moga_attention(q, k, v, routing, layout, config)[0].float()
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.moga, ran, rtol=0, atol=tolerance)
    assert found.dense.dtype == found.moga.dtype == torch.float32


def test_no_more_than_a_chunk_of_scores_exists():
    """At 30 s of 480p the scores of 64 queries would take 575 MB for 12 heads; here, of 2, less."""
    layout, config = VideoLayout(120, 30, 52, (0, 60)), MoGAConfig()
    assert layout.tokens == 187_200
    q = torch.randn(64, 2, 16)
    k, v = torch.randn(2, layout.tokens, 2, 16)
    group = torch.randint(5, (1, layout.tokens))
    routing = Routing(None, group, torch.full(group.shape, 0.3), 5)
    most = 0
    real = torch.Tensor.__matmul__

    def watching(a, b):
        nonlocal most
        out = real(a, b)
        most = max(most, out.numel())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", watching)
        queries = torch.randperm(layout.tokens)[:64].sort().values
        found = sample_layer(q, k, v, queries, routing, layout, config)
    assert 0 < most <= layer_module._SCORES
    assert found.moga.isfinite().all() and 0.2 < float(found.seen.mean()) < 0.4
