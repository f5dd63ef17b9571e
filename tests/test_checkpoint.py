"""Checkpoints on disk: whatever is in a file, it is read or refused in one sentence."""

import os
import re

import pytest
import torch
from harness.damage import damaged
from hypothesis import given
from hypothesis import strategies as st

from moga.checkpoint import (
    CheckpointError,
    check_routers,
    merge_routers,
    read,
    read_header,
    split_routers,
    write,
)
from moga.config import ConfigError, MoGAConfig

DIM, GROUPS = 4, 5


def routers(*blocks):
    return {i: {"weight": torch.ones(GROUPS, DIM), "bias": torch.ones(GROUPS)} for i in blocks}


def refusal(found, blocks=7, config=MoGAConfig(groups=GROUPS)):
    with pytest.raises(CheckpointError) as error:
        check_routers(found, config, source="a.safetensors", dim=DIM, blocks=blocks)
    return str(error.value)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path, seed):
    path = tmp_path / "a.safetensors"
    tensors = {"q.weight": torch.ones(3, 4), "count": torch.ones(2, dtype=torch.int64)}
    write(path, merge_routers(tensors, routers(0, 1)), MoGAConfig())
    for content in damaged(path.read_bytes(), seed):
        path.write_bytes(content)
        try:
            tensors, metadata = read(path)
            assert read_header(path).shapes == {k: tuple(t.shape) for k, t in tensors.items()}
            _, found, config = split_routers(tensors, metadata, source="a.safetensors")
            check_routers(found, config, source="a.safetensors", dim=DIM, blocks=2)
        except (CheckpointError, ConfigError) as error:
            said = str(error)
            assert said.startswith("a.safetensors") or said.startswith(str(path)), said
            assert "\n" not in said and len(said) < 400, said


@pytest.mark.parametrize(("name", "words"), [
    ("none.safetensors", "none.safetensors is not there; check the path."),
    ("folder.safetensors", "folder.safetensors cannot be read (Is a directory); check the path."),
    ("n" * 300 + ".safetensors", "cannot be read (File name too long); check the path."),
    ("nul\0.safetensors", "cannot be read (embedded null byte); check the path."),
    ("model.ckpt", "model.ckpt is not a .safetensors file; other formats can run code"),
])  # fmt: skip
def test_paths_that_lead_to_no_file(tmp_path, name, words):
    (tmp_path / "folder.safetensors").mkdir()
    for reader in (read, read_header):
        with pytest.raises(CheckpointError) as error:
            reader(tmp_path / name)
        assert words in str(error.value)


@pytest.mark.parametrize(("blocks", "words"), [
    ((0, 1, 2, 4, 5, 6), "has no router for block 3, where the blocks are 0 to 6;"),
    ((0, 1, 2, 4, 5, 6, 7), "has no router for block 3 and a router for block 7, where the"),
    ((1, 2, 3, 4, 5, 6, 7), "has no router for block 0 and a router for block 7, where the"),
    ((0, 3, 6), "has no router for blocks 1 to 2, 4 to 5, where the blocks are 0 to 6;"),
    ((0, 1, 2, 3, 4, 5, 6, 9), "has a router for block 9, where the blocks are 0 to 6;"),
    ((0, 1, 2), "has routers for 3 blocks, the model has 7;"),
    (range(9), "has routers for 9 blocks, the model has 7;"),
])  # fmt: skip
def test_which_routers_are_missing_or_too_many_is_said(blocks, words):
    assert f"a.safetensors {words}" in refusal(routers(*blocks))


@given(st.sets(st.integers(0, 12)), st.integers(1, 9))
def test_a_router_for_each_block_and_no_other_is_what_passes(found, blocks):
    if found == set(range(blocks)):
        check_routers(routers(*found), MoGAConfig(), source="a", dim=DIM, blocks=blocks)
        return
    said = refusal(routers(*found), blocks)
    named = set(map(int, re.findall(r"\d+", said.partition(" where ")[0])))
    if not found:
        assert "holds no MoGA routers" in said
    elif found == set(range(len(found))):
        assert {len(found), blocks} <= named
    else:  # the ends of all runs that are missing or too many
        odd = found ^ set(range(blocks))
        assert {min(odd), max(odd)} <= named or "..." in said


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.index_fill(0, torch.tensor(1), torch.nan), "has values that aren't numbers"),
    (lambda t: t.index_fill(0, torch.tensor(1), -torch.inf), "has values that aren't numbers"),
    (lambda t: t.long(), "is int64; save routers in float32"),
    (lambda t: t[None], "has shape (1, 5"),
    (lambda t: t.sum(), "has shape ()"),
])  # fmt: skip
def test_what_is_wrong_with_a_router_is_named(name, change, words):
    found = routers(0, 1)
    found[1][name] = change(found[1][name])
    said = refusal(found, 2)
    settings = name == "weight" and words.startswith("has shape")
    assert (f"the router {name} of block 1 {words}" in said) or (settings and "groups" in said)


def test_two_models_in_one_file_are_refused():
    one = merge_routers({}, routers(0))
    both = {**one, **{f"ema.{key}": tensor for key, tensor in one.items()}}
    with pytest.raises(CheckpointError, match=r"^b\.safetensors has two routers for block 0"):
        split_routers(both, source="b.safetensors")


def test_routers_have_two_names():
    own = merge_routers({"x": torch.ones(1)}, routers(0, 1))
    theirs = {f"a.{key}".replace("self_attn", "attn1"): tensor for key, tensor in own.items()}
    for names in (own, theirs):
        rest, found, _ = split_routers(names)
        assert len(rest) == 1 and found.keys() == {0, 1}


def test_settings_that_cannot_be_used_name_their_file(tmp_path):
    with pytest.raises(ConfigError, match=r"^b\.safetensors: the moga metadata is not JSON"):
        split_routers({}, {"moga": "["}, source="b.safetensors")


def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "a.safetensors", {"x": torch.zeros(9000)}, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []
