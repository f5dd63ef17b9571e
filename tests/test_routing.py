"""The router: top-1, its gate, its precision, and the balance loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import autocast

from moga.routing import Routing, TokenRouter, balance_loss, route


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**31))
def test_a_routing_is_softmax_and_its_winner(batch, tokens, groups, seed):
    scores = torch.randn(batch, tokens, groups, generator=torch.Generator().manual_seed(seed))
    routing = Routing.from_scores(scores)
    assert torch.allclose(routing.probabilities, scores.softmax(-1))
    assert torch.equal(routing.group, scores.argmax(-1))
    assert torch.equal(routing.gate, routing.probabilities.max(-1).values)
    assert (routing.group.dtype, routing.gate.dtype) == (torch.int64, torch.float32)
    counted = [[int((g == m).sum()) for m in range(groups)] for g in routing.group]
    assert routing.sizes().tolist() == counted


def test_the_lowest_group_wins_a_tie():
    assert Routing.from_scores(torch.zeros(1, 7, 5)).group.tolist() == [[0] * 7]


def test_extreme_scores_stay_finite():
    scores = torch.tensor([[[-1e30, -1e30], [1e30, -1e30], [-3e38, 3e38]]])
    routing = Routing.from_scores(scores)
    assert routing.probabilities.isfinite().all()
    assert routing.group.tolist() == [[0, 0, 1]]


def test_scores_are_float32_under_autocast_and_for_bfloat16():
    router = TokenRouter(64, 3)
    x = torch.randn(1, 50, 64).bfloat16()
    expected = torch.nn.functional.linear(x.float(), router.weight, router.bias)
    with autocast("cpu", dtype=torch.bfloat16):
        routing = router(x)
    assert torch.allclose(routing.probabilities, expected.softmax(-1), atol=1e-6)


def test_long_sequences_are_scored_in_slices(monkeypatch):
    monkeypatch.setattr("moga.routing._CHUNK", 7)
    lengths = []

    def score(part):
        lengths.append(part.shape[1])
        return part[..., :3]

    x = torch.randn(2, 25, 4)
    assert torch.equal(route(x, score).group, x[..., :3].argmax(-1))
    assert lengths == [7, 7, 7, 4]


def test_router_keys_are_the_file_format():
    assert {k: tuple(v.shape) for k, v in TokenRouter(16, 5).state_dict().items()} == {
        "weight": (5, 16),
        "bias": (5,),
    }


def test_balance_loss_is_one_when_balanced_and_groups_when_collapsed():
    groups = 4
    even = torch.eye(groups).repeat(3, 1)[None] * 50
    assert balance_loss(Routing.from_scores(even)).item() == pytest.approx(1)
    one = torch.zeros(1, 12, groups)
    one[..., 2] = 50
    assert balance_loss(Routing.from_scores(one)).item() == pytest.approx(groups)


@given(st.integers(0, 2**31))
def test_balance_loss_is_the_switch_form_per_sample(seed):
    scores = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(seed))
    routing = Routing.from_scores(scores)
    expected = 0.0
    for group, probabilities in zip(routing.group, routing.probabilities, strict=True):
        share = torch.bincount(group, minlength=4) / 20
        expected += 4 * (share * probabilities.mean(0)).sum() / 3
    assert balance_loss(routing).item() == pytest.approx(expected.item(), rel=1e-5)


def test_balance_loss_pushes_scores_of_a_full_group_down():
    scores = torch.zeros(1, 10, 3)
    scores[:, :8, 1] = 1.0
    scores[:, 8:, 0] = 1.0
    scores.requires_grad_()
    balance_loss(Routing.from_scores(scores)).backward()
    assert (scores.grad[..., 1] > 0).all() and (scores.grad[..., 2] < 0).all()
