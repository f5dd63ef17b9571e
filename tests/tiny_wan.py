"""Tiny Wan transformers of diffusers with seeded random weights, and what they are called with."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel

FRAMES, HEIGHT, WIDTH = 5, 6, 10  # of the latent: 5 x 3 x 5 tokens
TEXT_WIDTH, IMAGE_WIDTH, IMAGE_TOKENS = 64, 80, 5

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 64,
    "ffn_dim": 256,
    "num_layers": 2,
    "in_channels": 16,
    "out_channels": 16,
}
KINDS = {
    "t2v": {},
    "i2v": {"in_channels": 36, "image_dim": IMAGE_WIDTH, "added_kv_proj_dim": 256},
    "i2v_2.2": {"in_channels": 36},
    "ti2v": {"in_channels": 48, "out_channels": 48},
}


def make_wan(kind: str = "t2v", seed: int = 0, **config: Any) -> WanTransformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WanTransformer3DModel(**{**SMALL, **KINDS[kind], **config}).eval()


def make_call(kind: str = "t2v", text: int = 24, seed: int = 1, batch: int = 1) -> dict[str, Any]:
    """What a transformer of that kind is called with."""
    make = torch.Generator().manual_seed(seed)
    channels = {**SMALL, **KINDS[kind]}["in_channels"]
    call = {
        "hidden_states": torch.randn(batch, channels, FRAMES, HEIGHT, WIDTH, generator=make),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_WIDTH, generator=make),
    }
    if kind == "i2v":
        shape = (batch, IMAGE_TOKENS, IMAGE_WIDTH)
        call["encoder_hidden_states_image"] = torch.randn(shape, generator=make)
    if kind == "ti2v":  # one timestep per token, the first frame's being 0
        steps = torch.full((batch, FRAMES, HEIGHT // 2 * WIDTH // 2), 500.0)
        steps[:, 0] = 0
        call["timestep"] = steps.flatten(1)
    return call
