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

from diffusers import AutoencoderKLWan
from harness.tokenizer import tokenizer
from safetensors.torch import save_file
from tiny_wan import FRAMES, IMAGE_WIDTH, KINDS, TEXT_WIDTH, make_call, make_wan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from moga.checkpoint import write
from moga.config import MoGAConfig
from moga.hosts.diffusers import enable_moga, wan_state_dict


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be fetched: a connection that is tried fails the test."""

    def refuse(*args: Any) -> None:
        raise AssertionError(f"something wants to connect to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


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
