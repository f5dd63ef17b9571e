"""The demo's text encoder: UMT5 in small, frozen at random, with a tokenizer for storyboards.

    python recipes/demo_model/text_encoder.py text_encoder.safetensors

Random features are enough to tell the words of a small grammar apart, and the transformer learns
what they mean. The file has the form of ComfyUI's umt5_xxl files, so it is loaded as those are.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from moga.data.storyboard import ACTIONS, CAMERAS, storyboard
from moga.data.storyboard.drawing import COLOURS, PLACES, SHAPES, TEXTURES

WIDTH, VOCABULARY = 128, 512
SIZES = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
PHRASES = (*COLOURS, *TEXTURES, *SHAPES, *PLACES, *CAMERAS, *ACTIONS, "A The")
WORDS = tuple(dict.fromkeys(word for phrase in PHRASES for word in phrase.split()))


def main() -> None:
    (out,) = map(Path, sys.argv[1:])
    save_file(text_encoder(), out)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.2f} MB")


def text_encoder(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights and tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UMT5EncoderModel(UMT5Config(vocab_size=VOCABULARY, **SIZES))
        # As wide as the rest of the stream, so that a token keeps its own meaning.
        torch.nn.init.normal_(model.shared.weight)
    tensors = model.state_dict()
    tensors.pop("encoder.embed_tokens.weight")
    spiece = torch.frombuffer(bytearray(tokenizer()), dtype=torch.uint8)
    half = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    return {**half, "spiece_model": spiece}


def tokenizer() -> bytes:
    """A sentencepiece model: the words of storyboards whole, any other text in pieces and bytes."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(),
        model_writer=model,
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=[f"\u2581{word}" for word in WORDS],
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def sentences() -> Iterator[str]:
    """Captions of many storyboards, and every word of the grammar."""
    yield from (*CAMERAS, *ACTIONS)
    for seed in range(300):
        story = storyboard(seed)
        yield from (story.global_caption, *story.captions)


if __name__ == "__main__":
    main()
