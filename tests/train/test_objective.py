"""The loss of one forward, held against its definition."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import given
from hypothesis import strategies as st

from moga.config import MoGAConfig
from moga.hosts.diffusers import ShotCall, enable_moga
from moga.routing import Routing
from moga.train.batches import Batch
from moga.train.objective import group_load, losses, shifted

SIZES = {"num_attention_heads": 1, "attention_head_dim": 128, "num_layers": 2, "ffn_dim": 64}
TEXT, TOKENS = 16, 3


@pytest.fixture
def dit():
    torch.manual_seed(0)
    dit = WanTransformer3DModel(**SIZES, text_dim=TEXT, freq_dim=32)
    enable_moga(dit, MoGAConfig(groups=3), "random")
    return dit


def batch_of(starts=(0, 2), size=2, channels=16):
    make = torch.Generator().manual_seed(1)
    shape = (size, channels, 4, 4, 4)
    return Batch(
        torch.randn(shape, generator=make),
        torch.randn(shape, generator=make),
        torch.rand(size, generator=make),
        torch.randn(size, TOKENS * len(starts), TEXT, generator=make),
        starts,
        TOKENS,
        ("clip",) * size,
    )


@torch.no_grad()
@pytest.mark.parametrize("starts", [(0,), (0, 2), (0, 1, 3)])
def test_the_loss_is_that_of_the_velocity(dit, starts):
    batch = batch_of(starts)
    sigma = 3 * batch.level / (1 + 2 * batch.level)
    at = sigma.view(-1, 1, 1, 1, 1)
    spans = tuple((TOKENS * i, TOKENS * (i + 1)) for i in range(len(starts)))
    velocity = dit(
        (1 - at) * batch.latents + at * batch.noise,
        1000 * sigma,
        batch.text,
        attention_kwargs={"moga": ShotCall(starts, 4, spans)},
    ).sample
    expected = (velocity - (batch.noise - batch.latents)).square().mean()
    found = losses(dit, batch, 3.0)
    torch.testing.assert_close(found.velocity, expected)
    assert len(found.routings) == 2
    assert found.total(0.5) == found.velocity + 0.5 * found.balance


def test_both_losses_reach_the_routers(dit):
    for part in ("velocity", "balance"):
        dit.zero_grad()
        getattr(losses(dit, batch_of(), 5.0), part).backward()
        assert all(block.attn1.router.weight.grad.any() for block in dit.blocks)


@torch.no_grad()
def test_dense_and_routerless_have_no_balance(dit):
    assert losses(dit, batch_of(), 5.0, dense=True).balance is None
    enable_moga(dit, None)
    found = losses(dit, batch_of(), 5.0)
    assert found.balance is None and found.total(0.5) == found.velocity


@torch.no_grad()
def test_the_wide_model_takes_a_timestep_per_token():
    wide = {"in_channels": 48, "out_channels": 48}
    torch.manual_seed(0)
    dit = WanTransformer3DModel(**SIZES, **wide, text_dim=TEXT, freq_dim=32)
    enable_moga(dit, MoGAConfig(groups=3), "random")
    assert torch.isfinite(losses(dit, batch_of(channels=48), 5.0).velocity)


@given(level=st.floats(0, 1), more=st.floats(0, 1), shift=st.floats(0.1, 20))
def test_shifted_levels_keep_their_order_and_ends(level, more, shift):
    low, high = sorted((level, more))
    at = shifted(torch.tensor([0, low, high, 1], dtype=torch.float64), shift)
    assert at[0] == 0 and at[3] == pytest.approx(1)
    assert at[0] <= at[1] <= at[2] <= at[3] + 1e-9
    assert shift < 1 or at[1] >= low - 1e-9


@given(groups=st.integers(2, 6), tokens=st.integers(1, 5))
def test_group_load_at_its_extremes(groups, tokens):
    even = torch.nn.functional.one_hot(torch.arange(groups * tokens) % groups, groups)[None]
    balanced = Routing.from_scores(20.0 * even)
    collapsed = Routing.from_scores(torch.zeros(1, groups * tokens, groups))
    load = group_load((balanced, collapsed))
    assert load["load_max"] == pytest.approx([1 / groups, 1])
    assert load["load_min"] == pytest.approx([1 / groups, 0])
    assert load["load_entropy"] == pytest.approx([1, 0], abs=1e-5)
    assert load["gate"] == pytest.approx([1, 1 / groups], abs=1e-3)


def test_group_load_without_routers():
    assert not any(group_load(()).values())
