"""Every reader of a model file: whatever is in it, a model comes out or one sentence."""

import pytest
import torch
from harness.damage import damaged, damaged_bytes
from harness.tokenizer import tokenizer
from safetensors.torch import load_file, save_file

from moga.checkpoint import CheckpointError, write
from moga.config import ConfigError, MoGAConfig
from moga.generate.options import UsageError
from moga.generate.tensors import read_embeddings, read_latents
from moga.hosts.diffusers import (
    enable_moga,
    load_routers,
    load_text_encoder,
    load_vae,
    load_wan,
    wan_state_dict,
)
from moga.hosts.diffusers.image_encoder import load_image_encoder
from moga.hosts.diffusers.text_encoder import SentencePieceTokenizer, load_tokenizer
from moga.hosts.diffusers.vae_names import wan_vae_names
from moga.hosts.diffusers.weights import open_weights

SMALL = {"num_attention_heads": 1, "text_dim": 8, "freq_dim": 8, "ffn_dim": 8}
IMAGE = {"image_dim": 8, "added_kv_proj_dim": 128}
LORA = "diffusion_model.blocks.0.self_attn.q.lora_{}.weight"


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    return tmp_path_factory.mktemp("plain") / "plain.safetensors"


@pytest.fixture
def whole(tiny, plain):
    """Makers of whole files, as small as the formats allow."""

    def wan(path, kind="t2v", **config):
        dit = tiny.wan(kind, **SMALL, **config)
        if not plain.exists():
            save_file(wan_state_dict(dit), plain)
        enable_moga(dit, MoGAConfig(), "random")
        write(path, wan_state_dict(dit), MoGAConfig())

    def routers(path):
        wan(path)
        found = {k: t for k, t in load_file(path).items() if ".router." in k}
        lora = {LORA.format("A"): torch.ones(2, 128), LORA.format("B"): torch.ones(128, 2)}
        write(path, {**found, **lora}, MoGAConfig())

    def vae(path, wan_names=False):
        state = tiny.vae(base_dim=2).state_dict()
        names = wan_vae_names(state) if wan_names else {name: name for name in state}
        save_file({names[name]: tensor for name, tensor in state.items()}, path)

    def umt5(path):
        save_file(tiny.text_encoder_tensors(tiny.text_encoder()), path)

    def clip(path):
        state = tiny.image_encoder().state_dict()
        save_file({f"vision_model.{k.removeprefix('vision_model.')}": t for k, t in state.items()},
                  path)  # fmt: skip

    return {
        "wan": wan,
        "i2v": lambda path: wan(path, "i2v", **IMAGE),
        "routers": routers,
        "vae": vae,
        "wan's vae": lambda path: vae(path, wan_names=True),
        "umt5": umt5,
        "clip": clip,
        "text": lambda path: save_file({"prompt_embeds": torch.ones(2, 3, 8)}, path),
        "latents": lambda path: save_file({"latents": torch.ones(1, 16, 2, 2, 2)}, path),
    }


READERS = [
    ("wan", load_wan),
    ("wan", lambda path: load_wan(path, dtype=torch.bfloat16)),
    ("i2v", load_wan),
    ("routers", load_routers),
    ("vae", load_vae),
    ("wan's vae", load_vae),
    ("umt5", load_text_encoder),
    ("umt5", load_tokenizer),
    ("clip", load_image_encoder),
    ("text", read_embeddings),
    ("latents", read_latents),
]


def read_or_refuse(reader, path, whole, seed):
    for content in damaged(whole, seed):
        path.write_bytes(content)
        try:
            reader(path)
        except (CheckpointError, ConfigError, UsageError) as error:
            said = str(error)
            assert "\n" not in said and len(said) < 700, said
            assert path.name in said or "tokenizer" in said, said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(len(READERS)))
def test_damaged_files(whole, tmp_path, seed):
    kind, reader = READERS[seed]
    path = tmp_path / "a.safetensors"
    whole[kind](path)
    reader(path)
    read_or_refuse(reader, path, path.read_bytes(), seed)


@pytest.mark.filterwarnings("ignore")
def test_damaged_adapters(whole, plain, tmp_path):
    path = tmp_path / "a.safetensors"
    whole["routers"](path)

    def reader(path):
        return load_wan(plain, routers=path)

    weight = "blocks.0.attn1.to_q.weight"
    assert not torch.equal(reader(path).state_dict()[weight], load_wan(plain).state_dict()[weight])
    read_or_refuse(reader, path, path.read_bytes(), 0)


def test_damaged_tokenizers():
    """Where the file is whole, and the tokenizer within is not."""
    for content in damaged_bytes(tokenizer(), 0, 200):
        try:
            SentencePieceTokenizer(content).ids("a woman in the rain")
        except CheckpointError as error:
            assert "tokenizer" in str(error)


def test_what_comfyui_notes_beside_weights_is_passed_over(whole, tmp_path):
    path = tmp_path / "a.safetensors"
    note = torch.tensor(list(b'{"attention": "int8"}'), dtype=torch.uint8)
    for kind, reader, places in (
        ("wan", load_wan, ("blocks.0.self_attn", "blocks.1.cross_attn")),
        ("routers", load_routers, ("blocks.0.self_attn",)),
        ("vae", load_vae, ("decoder.mid_block.attentions.0",)),
        ("wan's vae", load_vae, ("decoder.middle.1",)),
        ("umt5", load_text_encoder, ("encoder.block.0.layer.0.SelfAttention",)),
        ("clip", load_image_encoder, ("vision_model.encoder.layers.0.self_attn",)),
    ):
        whole[kind](path)
        tensors, metadata = load_file(path), open_weights(path).metadata
        size = open_weights(path).bytes_as(torch.float32)
        notes = {f"{place}.comfy_attention.config": note.clone() for place in places}
        save_file({**tensors, **notes}, path, metadata)
        assert reader(path) and open_weights(path).bytes_as(torch.float32) == size
