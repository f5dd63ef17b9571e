"""Tiny Wan models with seeded random weights, made by diffusers' own classes; and no network."""

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from harness.tokenizer import tokenizer
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from moga.checkpoint import write
from moga.config import MoGAConfig
from moga.hosts.diffusers import enable_moga, wan_state_dict

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


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be fetched: a connection that is tried fails the test."""

    def refuse(*args: Any) -> None:
        raise AssertionError(f"something wants to connect to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


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


def make_vae(kind: str = "2.1", seed: int = 0, base_dim: int = 8) -> AutoencoderKLWan:
    wide = {
        "z_dim": 48,
        "in_channels": 12,
        "out_channels": 12,
        "is_residual": True,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.1] * 48,
        "latents_std": [0.5] * 48,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "2.1":
            return AutoencoderKLWan(base_dim=base_dim).eval()
        return AutoencoderKLWan(base_dim=base_dim, decoder_base_dim=12, **wide).eval()


def make_text_encoder(seed: int = 0) -> UMT5EncoderModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = UMT5Config(
            vocab_size=512, d_model=TEXT_WIDTH, d_kv=8, d_ff=96, num_layers=2, num_heads=4
        )
        return UMT5EncoderModel(config).eval()


def text_encoder_tensors(model: UMT5EncoderModel) -> dict[str, torch.Tensor]:
    """In the form of ComfyUI's repackaged files."""
    tensors = {k: t for k, t in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    spiece = torch.frombuffer(bytearray(tokenizer()), dtype=torch.uint8)
    return {**tensors, "spiece_model": spiece}


def make_image_encoder(seed: int = 0) -> CLIPVisionModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPVisionConfig(
            hidden_size=IMAGE_WIDTH,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=1,
            image_size=28,
            patch_size=14,
            hidden_act="gelu",
        )
        return CLIPVisionModel(config).eval()


@pytest.fixture
def tiny() -> SimpleNamespace:
    """Makers of tiny models and of what they are called with."""
    return SimpleNamespace(
        wan=make_wan,
        call=make_call,
        vae=make_vae,
        text_encoder=make_text_encoder,
        text_encoder_tensors=text_encoder_tensors,
        image_encoder=make_image_encoder,
        tokenizer=tokenizer,
        frames=FRAMES,
        text_width=TEXT_WIDTH,
    )


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files as people have them, by name; made when first asked for, not to be changed."""
    folder = tmp_path_factory.mktemp("models")

    def moga(kind: str, seed: int = 0) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            dit = make_wan(kind, seed)
            enable_moga(dit, MoGAConfig(), "random", seed=seed)
            write(path, wan_state_dict(dit), MoGAConfig())

        return make

    def plain(path: Path) -> None:
        save_file(wan_state_dict(make_wan()), path)

    def routers(path: Path) -> None:
        dit = make_wan()
        enable_moga(dit, MoGAConfig(), "random")
        found = {k: t for k, t in wan_state_dict(dit).items() if ".router." in k}
        write(path, found, MoGAConfig())

    def clip(path: Path) -> None:
        state = make_image_encoder().state_dict()
        save_file({f"vision_model.{k.removeprefix('vision_model.')}": t for k, t in state.items()},
                  path)  # fmt: skip

    makers: dict[str, Callable[[Path], None]] = {
        **{kind: moga(kind) for kind in KINDS},
        "low": moga("t2v", 1),
        "plain": plain,
        "routers": routers,
        "vae": lambda path: save_file(make_vae().state_dict(), path),
        "vae22": lambda path: save_file(make_vae("2.2").state_dict(), path),
        "umt5": lambda path: save_file(text_encoder_tensors(make_text_encoder()), path),
        "clip": clip,
    }

    def get(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            makers[name](path)
        return path

    return get


@pytest.fixture
def save_text() -> Callable[..., None]:
    """Writes what --embeddings reads."""

    def save(path: Path, prompt: torch.Tensor, *negative: torch.Tensor) -> None:
        names = ("prompt_embeds", "negative_prompt_embeds")
        save_file(dict(zip(names, (prompt, *negative), strict=False)), path)

    return save


@pytest.fixture
def line(
    model_files: Callable[[str], Path], save_text: Callable[..., None], tmp_path: Path
) -> Callable[..., list[str]]:
    """A command line of moga.generate that works, with options changed, added, or left out (None).

    Its script has two shots, of 5 and 4 frames.
    """
    script = tmp_path / "story.txt"
    script.write_text("global: rain.\n[5f] a woman walks\n[0.25s] coffee\n")
    torch.manual_seed(0)
    save_text(tmp_path / "text.safetensors", torch.randn(2, 9, 64), torch.randn(1, 9, 64))

    def line(**changes: Any) -> list[str]:
        options = {
            "script": script,
            "model": model_files("t2v"),
            "vae": model_files("vae"),
            "embeddings": tmp_path / "text.safetensors",
            "out": tmp_path / "film.mp4",
            "size": "48x32",
            "steps": 2,
            "dtype": "fp32",
            "device": "cpu",
            **changes,
        }
        given = []
        for name, value in options.items():
            if value is not None:
                flag = f"--{name.replace('_', '-')}"
                given += [flag] if value is True else [flag, str(value)]
        return given

    return line
