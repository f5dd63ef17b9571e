"""What is asked for, which frames are drawn, what is said, and which blocks are suggested."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moga.blocks import blocks_text, parse_blocks
from moga.config import BRANCHES, COMBINES, ConfigError, MoGAConfig
from moga.diagnostics import (
    Observer,
    Request,
    UnsuitableError,
    drawn_frames,
    suggest_dense_blocks,
)
from moga.layout import VideoLayout
from moga.routing import TokenRouter, random_routers
from moga.vae.decode import NotFiniteError


@given(blocks=st.sets(st.integers(0, 59)))
def test_blocks_as_text_and_back(blocks):
    assert parse_blocks(blocks_text(blocks), 60) == blocks


@given(text=st.text(st.sampled_from("0123456789-, x.\u0661"), max_size=12))
def test_other_blocks_are_refused_in_words(text):
    try:
        assert parse_blocks(text, 30, "blocks") <= set(range(30))
    except ConfigError as error:
        assert str(error).startswith("blocks has '") and "from 0 to 29" in str(error)


@given(text=st.text(st.sampled_from("0123456789.,e- nai"), max_size=12))
def test_noise_levels_are_shares_or_refused(text):
    try:
        levels = Request.parse(text, "", 2, 1, 0).levels
    except UnsuitableError as error:
        assert str(error).startswith("noise_levels has ")
    else:
        assert all(0 <= level <= 1 for level in levels)
        assert list(levels) == sorted(set(levels), reverse=True) != []


@given(errors=st.dictionaries(st.integers(0, 39), st.floats(0, 3), min_size=1))
def test_suggested_blocks_follow_the_rule(errors):
    chosen = suggest_dense_blocks(errors)
    assert chosen == sorted(chosen) and len(chosen) <= len(errors) / 4
    ordered = sorted(errors.values())
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    over = [b for b in errors if errors[b] > max(0.1, 1.5 * middle)]
    assert set(chosen) <= set(over)
    if len(over) <= len(errors) // 4:
        assert set(chosen) == set(over)
    elif chosen:
        worst = min(errors[b] for b in chosen)
        assert all(errors[b] <= worst for b in over if b not in chosen)


@given(
    frames=st.integers(1, 60),
    cuts=st.sets(st.integers(1, 59), max_size=20),
)
def test_drawn_frames_are_of_different_shots(frames, cuts):
    shots = (0, *sorted(cut for cut in cuts if cut < frames))
    drawn = drawn_frames(VideoLayout(frames, 1, 1, shots))
    assert drawn == sorted(set(drawn)) and set(drawn) <= set(range(frames))
    assert 1 <= len(drawn) <= 4
    owners = {sum(start <= frame for start in shots) for frame in drawn}
    assert len(owners) == min(len(shots), 4)


def test_random_routers_are_those_of_a_training():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = [TokenRouter(16, 5) for _ in range(2)]
    state = torch.get_rng_state()
    made = random_routers(16, 5, 2, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for block, router in enumerate(expected):
        assert torch.equal(made[block]["weight"], router.weight)
        assert torch.equal(made[block]["bias"], router.bias)


LAYOUT = VideoLayout(4, 2, 3, (0, 2))


def observed(config, *, queries=500, levels="0.9,0.5", layout=LAYOUT, **changes):
    request = Request.parse(levels, "1", 2, queries, 0)
    observer = Observer(request, config, random_routers(16, config.groups, 2))
    make = torch.Generator().manual_seed(0)
    for level in request.levels:
        observer.begin(level)
        for block in range(2):
            x = torch.randn(2, layout.tokens, 16, generator=make)
            tensors = {name: torch.randn(2, layout.tokens, 2, 8, generator=make) for name in "qkv"}
            tensors = {"x": x, **tensors, **(changes if block == 1 else {})}
            observer.see(block, layout, *(tensors[name] for name in "xqkv"))
    return observer.result()


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("branches", [BRANCHES, ("windows", "frames"), ("routed",)])
def test_text_and_json_say_the_same(combine, branches):
    found = observed(MoGAConfig(combine=combine, branches=branches))
    data = json.loads(found.to_json({"model": "m"}))
    assert data["model"] == "m" and data["latent"]["tokens"] == 24 and data["queries"] == 24
    assert [(c["block"], c["noise"]) for c in data["cells"]] == [(1, 0.9), (1, 0.5)]
    text = found.text()
    assert "24 of each block (all there are, of the 500 asked for)" in text
    row = next(line for line in text.splitlines() if line.lstrip().startswith("1 ")).split()
    assert row[1:3] == [f"{cell['error']:.3f}" for cell in data["cells"]]
    sizes = [cell["sizes"] for cell in data["cells"]]
    if "routed" in branches:
        assert all(sum(size) == 24 and len(size) == 5 for size in sizes)
        assert float(row[-1]) >= 1
    else:
        assert sizes == [[], []] and row[-1] == "-"


@pytest.mark.parametrize("name", ["x", "q", "k", "v"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_numbers_are_named(name, value):
    shape = (2, 24, 16) if name == "x" else (2, 24, 2, 8)
    broken = torch.zeros(shape)
    broken[1, -1] = value  # of another sample of the batch, too
    with pytest.raises(NotFiniteError, match=r"^block 1 has values .* at noise level 0\.9; use"):
        observed(MoGAConfig(), **{name: broken})


@pytest.mark.parametrize(("layout", "said"), [
    (VideoLayout(1, 4, 4), "in one latent frame, which every token sees whole"),
    (VideoLayout(3, 1, 3), "the latent has 9 tokens, too few for 5 groups"),
])  # fmt: skip
def test_too_few_tokens(layout, said):
    with pytest.raises(UnsuitableError, match=said):
        observed(MoGAConfig(), layout=layout)


def test_nothing_seen_is_said():
    request = Request.parse("0.5", "", 2, 4, 0)
    with pytest.raises(UnsuitableError, match="no block could be measured"):
        Observer(request, MoGAConfig(), {}).result()
