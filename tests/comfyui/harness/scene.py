"""Short words for the tests of MoGA on a model: load, sample, compare."""

from types import SimpleNamespace
from typing import Any

import torch

STEPS = 2


class Scene:
    """A tiny Wan in the ComfyUI under test, what it is conditioned on, and what is sampled.

    latent: (1, C, 5, 6, 10) zeros: 5 latent frames (17 video frames) of 3 x 5 tokens.
    """

    def __init__(self, comfy: Any, weights: dict, channels: int = 16, frames: int = 5) -> None:
        self.comfy = comfy
        self.host = comfy.module("moga.hosts.comfyui")
        self.Config = comfy.module("moga.config").MoGAConfig
        self.ShotList = comfy.module("moga.shots").ShotList
        self.weights = weights
        self.latent = {"samples": torch.zeros(1, channels, frames, 6, 10)}
        self.positive, self.negative = text(1), text(2)

    def load(self, **options: Any) -> Any:
        """The model as core's loader makes it, a new one each time."""
        from comfy.sd import load_diffusion_model_state_dict

        return load_diffusion_model_state_dict(dict(self.weights), model_options=options)

    def routers(self, config: Any = None, *, dim: int = 256, blocks: int = 2) -> Any:
        config = config or self.Config()
        return self.host.RouterSet(router_weights(config.groups, dim, blocks), config, "test")

    def everything(self) -> Any:
        """Routers under which MoGA is dense attention: one group, no gate, nothing else."""
        return self.routers(self.Config(groups=1, gate=False, branches=("routed",)))

    def apply(self, model: Any, routers: Any = None, **settings: Any) -> Any:
        return self.host.apply_moga(model, self.host.Settings(**settings), routers)

    def shots(self, script: str = "[5f] one\n[4f] two\n[8f] three") -> Any:
        return self.ShotList.parse(script, 16)

    def schedule(self, shots: Any, *blocks: torch.Tensor) -> list:
        """Conditioning of the shots, each with its own encoded text (1, K, 4096)."""
        encoded = dict(zip(shots.texts, blocks, strict=False))
        clip = SimpleNamespace(
            tokenize=lambda words: words,
            encode_from_tokens_scheduled=lambda words: [[encoded[words], {}]],
        )
        return self.host.encode_shots(clip, shots)

    def sample(self, model: Any, positive: Any = None, negative: Any = None, **inputs: Any):
        """KSampler's latent, (1, C, 5, 6, 10)."""
        given = {
            "model": model,
            "seed": 2,
            "steps": STEPS,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "positive": self.positive if positive is None else positive,
            "negative": self.negative if negative is None else negative,
            "latent_image": self.latent,
            "denoise": 1.0,
            **inputs,
        }
        return self.comfy.call("KSampler", **given)[0]["samples"]

    def cross_attention(self, model: Any, positive: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and output, (1, tokens, dim) each, of the first block's cross-attention."""
        seen: list = []
        handle = model.model.diffusion_model.blocks[0].cross_attn.register_forward_hook(
            lambda module, args, kwargs, out: seen.append((args[0], out)), with_kwargs=True
        )
        try:
            self.sample(model, positive, steps=1, cfg=1.0)
        finally:
            handle.remove()
        return seen[0]


def tokens(seed: int, count: int = 512) -> torch.Tensor:
    """Encoded text, (1, count, 4096)."""
    return torch.randn(1, count, 4096, generator=torch.Generator().manual_seed(seed))


def text(seed: int, count: int = 512) -> list:
    """The conditioning of one prompt."""
    return [[tokens(seed, count), {}]]


def router_weights(groups: int, dim: int = 256, blocks: int = 2, seed: int = 0) -> dict:
    """Routers that send tokens to all groups: {block: {"weight", "bias"}}."""
    make = torch.Generator().manual_seed(seed)
    return {
        index: {
            "weight": torch.randn(groups, dim, generator=make),
            "bias": torch.randn(groups, generator=make) / 10,
        }
        for index in range(blocks)
    }


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal within a share of the larger one's size."""
    difference = (a - b).abs().max() / b.abs().max()
    assert difference < tolerance, f"differs by {difference:.2e} of its size"


def differs(a: torch.Tensor, b: torch.Tensor, least: float = 1e-4) -> None:
    """Really another result, and a finite one."""
    assert a.isfinite().all() and b.isfinite().all()
    difference = (a - b).abs().max() / b.abs().max()
    assert difference > least, f"differs by only {difference:.2e} of its size"
