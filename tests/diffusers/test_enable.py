"""MoGA on a diffusers transformer: what must not change, does not; what must, does."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moga.checkpoint import CheckpointError
from moga.config import MoGAConfig
from moga.hosts.diffusers import (
    ShotCall,
    ShotMismatchError,
    disable_moga,
    enable_moga,
    moga_config,
    moga_routers,
)
from moga.kernels import BackendError
from moga.shots import ShotList

ALL = ("t2v", "i2v", "i2v_2.2", "ti2v")
EVERYTHING = MoGAConfig(groups=1, gate=False, branches=("routed",))  # dense attention, in effect
FRAMEWISE = MoGAConfig(branches=("frames",))  # no frame learns of another
SHOTS = ShotCall((0, 2, 3), 5, ((0, 8), (8, 16), (16, 24)))


@torch.no_grad()
def velocity(dit, call, moga=None, **attention_kwargs):
    given = attention_kwargs if moga is None else {"moga": moga, **attention_kwargs}
    return dit(**call, attention_kwargs=given or None).sample


@pytest.mark.parametrize("kind", ALL)
def test_one_group_without_gate_is_plain_wan(tiny, kind):
    dit, call = tiny.wan(kind), tiny.call(kind, 512)
    plain = velocity(dit, call)
    enable_moga(dit, EVERYTHING, "random")
    assert (velocity(dit, call) - plain).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_moga_changes_the_result_and_taking_it_off_leaves_no_trace(tiny, kind):
    dit, call = tiny.wan(kind), tiny.call(kind, 512)
    plain, keys = velocity(dit, call), list(dit.state_dict())
    processors = {name: type(p) for name, p in dit.attn_processors.items()}
    enable_moga(dit, MoGAConfig(), "random")
    assert (velocity(dit, call) - plain).abs().max() > 1e-3
    disable_moga(dit)
    assert torch.equal(velocity(dit, call), plain)
    assert list(dit.state_dict()) == keys
    assert {name: type(p) for name, p in dit.attn_processors.items()} == processors
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in dit.modules())
    assert moga_config(dit) is None


@pytest.mark.parametrize("kind", ALL)
def test_a_dense_call_is_plain_wan_bit_for_bit(tiny, kind):
    dit, call = tiny.wan(kind), tiny.call(kind, 512)
    plain = velocity(dit, call)
    enable_moga(dit, MoGAConfig(), "random")
    assert torch.equal(velocity(dit, call, ShotCall(dense=True)), plain)


def test_text_alone_leaves_one_shot_as_it_is(tiny):
    dit, call = tiny.wan(), tiny.call()
    plain = velocity(dit, call)
    enable_moga(dit, None)
    assert torch.equal(velocity(dit, call), plain)
    assert torch.equal(velocity(dit, call, ShotCall(spans=((0, 24),))), plain)
    assert not torch.equal(velocity(dit, call, SHOTS), plain)


@pytest.mark.parametrize("values", [
    {"groups": 2}, {"windows": (1, 1)}, {"window_frames": 2}, {"gate": False}, {"combine": "mean"},
    {"branches": ("windows", "frames")},
])  # fmt: skip
def test_every_setting_reaches_the_layer(tiny, values):
    dit, call = tiny.wan(), tiny.call()
    enable_moga(dit, MoGAConfig(), "random")
    standard = velocity(dit, call)
    enable_moga(dit, MoGAConfig(**values), "random")
    assert (velocity(dit, call) - standard).abs().max() > 1e-4


def test_cuts_matter_to_self_attention(tiny):
    dit, call = tiny.wan(), tiny.call()
    enable_moga(dit, MoGAConfig(), "random")
    assert not torch.equal(velocity(dit, call, ShotCall((0, 2))), velocity(dit, call))


@st.composite
def shots_and_texts(draw):
    starts = (0, *sorted(draw(st.sets(st.integers(1, 4), max_size=4))))
    return starts, [draw(st.integers(1, 9)) for _ in starts]


@given(shots_and_texts())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_each_shot_is_what_its_own_text_makes_of_it(tiny, drawn):
    """Where frames do not mix, a shot's frames are those of a run with its text for everything."""
    starts, lengths = drawn
    dit, call = tiny.wan(), tiny.call(text=sum(lengths))
    enable_moga(dit, FRAMEWISE)
    shots = ShotList.parse("\n".join(f"[{n}f] x" for n in frame_counts(starts)), 16)
    together = velocity(dit, call, ShotCall.of(shots, lengths))
    text, at = call["encoder_hidden_states"], 0
    for (first, last), length in zip(spans(starts), lengths, strict=True):
        alone = {**call, "encoder_hidden_states": text[:, at : at + length]}
        expected = velocity(dit, alone, ShotCall())
        assert torch.allclose(together[:, :, first:last], expected[:, :, first:last], atol=1e-5)
        at += length


def spans(starts):
    return list(zip(starts, (*starts[1:], 5), strict=True))


def frame_counts(starts):
    counts = [last - first for first, last in spans(starts)]
    return [4 * counts[0] - 3, *(4 * n for n in counts[1:])]


def test_image_tokens_are_read_by_every_shot(tiny):
    dit, call = tiny.wan("i2v"), tiny.call("i2v", 512)
    enable_moga(dit, FRAMEWISE)
    expected = velocity(dit, call)
    twice = {**call, "encoder_hidden_states": call["encoder_hidden_states"].repeat(1, 2, 1)}
    both = ShotCall((0, 3), 5, ((0, 512), (512, 1024)))
    assert torch.allclose(velocity(dit, twice, both), expected, atol=1e-5)


def test_a_batch_and_positional_arguments(tiny):
    dit, call = tiny.wan(), tiny.call(batch=2)
    enable_moga(dit, MoGAConfig(), "random")
    both = velocity(dit, call, SHOTS)
    for row in range(2):
        one = {name: t[row : row + 1] for name, t in call.items()}
        assert torch.allclose(velocity(dit, one, SHOTS), both[row : row + 1], atol=1e-5)
    with torch.no_grad():
        positional = dit(*call.values(), None, False, {"moga": SHOTS})[0]
    assert torch.equal(positional, both)


def test_a_shot_list_is_a_layout_with_one_text_for_all(tiny):
    dit, call = tiny.wan(), tiny.call()
    enable_moga(dit, MoGAConfig(), "random")
    shots = ShotList.parse("[5f] one\n[12f] two", 16)
    assert torch.equal(velocity(dit, call, shots), velocity(dit, call, ShotCall((0, 2), 5)))


def test_routers_come_back_as_they_were_given(tiny):
    dit = tiny.wan()
    given = {i: {"weight": torch.randn(5, 256), "bias": torch.randn(5)} for i in range(2)}
    enable_moga(dit, MoGAConfig(), given)
    found = moga_routers(dit)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[i][n], given[i][n]) for i in given for n in ("weight", "bias"))
    assert "blocks.1.attn1.router.weight" in dit.state_dict()


def test_random_routers_come_from_the_seed_alone(tiny):
    made = []
    for seed in (3, 3, 4):
        dit = tiny.wan()
        torch.manual_seed(len(made))
        before = torch.get_rng_state()
        enable_moga(dit, MoGAConfig(), "random", seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        made.append(moga_routers(dit)[1]["weight"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@pytest.mark.parametrize(("shots", "words"), [
    (ShotCall((0, 2), 7), "5 latent frames (17 video frames), but the shots fill 7"),
    (ShotCall((0, 5)), "use fewer shots"),
    (ShotCall((0, 2), None, ((0, 24),)), "2 shots, but spans for 1"),
    (ShotCall((0, 2), None, ((0, 8), (8, 16))), "has 24 tokens"),
    (ShotCall((0, 2), None, ((0, 8), (9, 24))), "has 24 tokens"),
    (ShotCall((0, 2), None, ((0, 24), (24, 24))), "has 24 tokens"),
    ("shots", "is a str"),
])  # fmt: skip
def test_what_does_not_belong_together_is_refused(tiny, shots, words):
    dit = tiny.wan()
    enable_moga(dit, MoGAConfig(), "random")
    with pytest.raises(ValueError) as caught:
        velocity(dit, tiny.call(), shots)
    assert words in str(caught.value)


def test_an_image_model_needs_512_tokens_per_shot(tiny):
    dit = tiny.wan("i2v")
    enable_moga(dit, MoGAConfig(), "random")
    with pytest.raises(ShotMismatchError, match="pad each shot's text to 512"):
        velocity(dit, tiny.call("i2v"), SHOTS)


def test_what_cannot_be_enabled_is_refused_and_changes_nothing(tiny):
    dit, call = tiny.wan(), tiny.call()
    plain = velocity(dit, call)
    wrong = {i: {"weight": torch.randn(4, 256), "bias": torch.randn(4)} for i in range(2)}
    for error, words, arguments, options in (
        (CheckpointError, "routers is None", (MoGAConfig(),), {}),
        (
            CheckpointError,
            "settings for 5 groups and router weights for 4",
            (MoGAConfig(), wrong),
            {},
        ),
        (CheckpointError, "for 1 blocks", (MoGAConfig(), {0: wrong[0]}), {}),
        (ValueError, "or 'random'", (MoGAConfig(), "zeros"), {}),
        (BackendError, "choose one of", (MoGAConfig(), "random"), {"backend": "fast"}),
    ):
        with pytest.raises(error) as caught:
            enable_moga(dit, *arguments, **options)
        assert words in str(caught.value)
        assert torch.equal(velocity(dit, call), plain)
    with pytest.raises(ValueError, match="Identity; MoGA runs on"):
        enable_moga(torch.nn.Identity(), None)
