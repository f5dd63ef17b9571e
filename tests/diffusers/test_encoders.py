"""UMT5 with its tokenizer, and CLIP's vision encoder, from the files that ComfyUI users have."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from moga.checkpoint import CheckpointError
from moga.hosts.diffusers import ShotMismatchError, load_text_encoder
from moga.hosts.diffusers.image_encoder import load_image_encoder
from moga.hosts.diffusers.text_encoder import (
    SentencePieceTokenizer,
    check_lengths,
    load_tokenizer,
)


@pytest.fixture
def write_text_encoder(tiny, tmp_path):
    def write(change=dict):
        path = tmp_path / "umt5.safetensors"
        tensors = change(tiny.text_encoder_tensors(tiny.text_encoder()))
        save_file({key: t.contiguous() for key, t in tensors.items()}, path)
        return path

    return write


@torch.no_grad()
def test_the_encoder_gives_what_transformers_gives(tiny, model_files):
    model, tokenizer = load_text_encoder(model_files("umt5"))
    tokens = tokenizer(["a woman in the rain", "coffee"], max_length=40)
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (2, 40)
    expected = tiny.text_encoder()(tokens.input_ids, tokens.attention_mask).last_hidden_state
    assert torch.equal(model(tokens.input_ids, tokens.attention_mask).last_hidden_state, expected)
    assert model.encoder.embed_tokens.weight is model.shared.weight
    assert not model.training


def test_tokens_end_with_one_and_are_padded_with_zero(tiny):
    tokenizer = SentencePieceTokenizer(tiny.tokenizer())
    ids = tokenizer.ids("coffee in the rain")
    assert ids[-1] == 1 and 1 not in ids[:-1]
    found = tokenizer("coffee in the rain", max_length=len(ids) + 3)
    assert found.input_ids[0].tolist() == [*ids, 0, 0, 0]
    assert found.attention_mask[0].tolist() == [1] * len(ids) + [0, 0, 0]
    assert tokenizer("coffee in the rain", max_length=4).input_ids[0].tolist() == [*ids[:3], 1]
    assert tokenizer("", max_length=3).input_ids[0].tolist() == [1, 0, 0]


def test_folders(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    tiny.text_encoder().save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load_text_encoder(tmp_path)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581a", -1.0), ("\u2581b", -2.0)]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tmp_path / "tokenizer")
    model, tokenizer = load_text_encoder(tmp_path, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert tokenizer("a b").input_ids == load_tokenizer(tmp_path)("a b").input_ids == [3, 4, 1]
    with pytest.raises(CheckpointError, match="has no text_encoder"):
        load_text_encoder(tmp_path / "tokenizer")


def test_too_long_a_caption_is_refused(tiny):
    tokenizer = SentencePieceTokenizer(tiny.tokenizer())
    check_lengths(tokenizer, ["coffee"], len(tokenizer.ids("coffee")))
    with pytest.raises(ShotMismatchError, match=r"shorten its caption or the global one"):
        check_lengths(tokenizer, ["rain", "coffee"], len(tokenizer.ids("coffee")) - 1)


def test_half_precision_keeps_wide_what_overflows(write_text_encoder):
    path = write_text_encoder(
        lambda tensors: {k: t if t.dtype == torch.uint8 else t.half() for k, t in tensors.items()}
    )
    model, _ = load_text_encoder(path)
    assert model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert model.shared.weight.dtype == torch.float16
    model, _ = load_text_encoder(path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: {k: v for k, v in t.items() if k != "spiece_model"}, "carries no tokenizer"),
    (lambda t: {**t, "spiece_model": torch.zeros(9, dtype=torch.uint8)}, "tokenizer .* is damaged"),
    (lambda t: {**t, "scaled_fp8": torch.zeros(1)}, "is fp8 with scales.*use the fp16 or bf16"),
    (lambda t: {k: v for k, v in t.items() if "block.1.layer.1" not in k}, "lacks 4 weights"),
    (lambda t: {"token_embedding.weight": torch.zeros(3, 3)}, "WanVideoWrapper.*umt5_xxl_fp16"),
    (lambda t: {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(3)}, "a CLIP text"),
    (lambda t: {k: v for k, v in t.items() if "1.layer.0.SelfAttention.r" not in k}, "not a UMT5"),
])  # fmt: skip
def test_other_files_are_named(write_text_encoder, change, words):
    with pytest.raises(CheckpointError, match=words):
        load_text_encoder(write_text_encoder(change))


@torch.no_grad()
def test_the_image_encoder_gives_what_transformers_gives(tiny, model_files):
    model, processor = load_image_encoder(model_files("clip"))
    picture = Image.effect_noise((50, 40), 80).convert("RGB")
    pixels = processor(images=picture, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 28, 28)
    expected = tiny.image_encoder()(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(model(pixels, output_hidden_states=True).hidden_states[-2], expected)
    with pytest.raises(CheckpointError, match="not a CLIP vision encoder, it looks like a VAE"):
        load_image_encoder(model_files("vae"))
