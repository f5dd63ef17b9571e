"""`python -m moga.demo`: the way from a script to a film, with models small enough for any machine.

The models are random, so the picture is noise; everything else is what a real run does.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import write
from .config import MoGAConfig
from .shots import ShotList

TEXT_WIDTH, TEXT_TOKENS = 64, 16
SIZE, FPS, STEPS = "192x112", "16", "6"
SCRIPT = Path(__file__).parents[1] / "examples" / "demo.txt"
_DIT = {"num_attention_heads": 2, "attention_head_dim": 128, "ffn_dim": 512, "num_layers": 3}
_VAE = {"base_dim": 8, "z_dim": 16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the models, then the film. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moga.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--script", type=Path, default=SCRIPT, help="default: examples/demo.txt")
    options = parser.parse_args(arguments)
    from .generate import main as generate

    options.out.mkdir(parents=True, exist_ok=True)
    for old in ("film.mp4", "film.latents.safetensors"):
        (options.out / old).unlink(missing_ok=True)
    shots = ShotList.parse(options.script.read_text(encoding="utf-8"), FPS)
    write_models(options.out, shots)
    print("The models are random and untrained: the film shows coloured noise, not the captions.")
    files = {
        "--script": options.script,
        "--model": options.out / "model.safetensors",
        "--vae": options.out / "vae.safetensors",
        "--embeddings": options.out / "captions.safetensors",
        "--out": options.out / "film.mp4",
        "--contact-sheet": options.out / "contact-sheet.png",
    }
    settings = {"--size": SIZE, "--fps": FPS, "--steps": STEPS, "--cfg": "2", "--dtype": "fp32"}
    given = {**{flag: str(path) for flag, path in files.items()}, **settings}
    return generate([part for pair in given.items() for part in pair])


def write_models(folder: Path, shots: ShotList, seed: int = 0) -> None:
    """Write a tiny random MoGA model, VAE and encoded captions, as files that people would have.

    Makes model.safetensors (merged, in Wan's names), vae.safetensors and captions.safetensors.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from safetensors.torch import save_file

    from .generation.tensors import write_embeddings
    from .hosts.diffusers import enable_moga, wan_state_dict

    config = MoGAConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit = WanTransformer3DModel(**_DIT, text_dim=TEXT_WIDTH, freq_dim=64)
        enable_moga(dit, config, "random", seed=seed)
        write(folder / "model.safetensors", wan_state_dict(dit), config)
        save_file(AutoencoderKLWan(**_VAE).state_dict(), folder / "vae.safetensors")
    prompt = torch.stack([encode(text) for text in shots.texts])
    write_embeddings(folder / "captions.safetensors", prompt, encode("")[None])


def encode(text: str) -> Tensor:
    """What stands in for a text encoder: noise that depends on the text, (tokens, width)."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.randn(TEXT_TOKENS, TEXT_WIDTH, generator=generator)


if __name__ == "__main__":
    sys.exit(main())
