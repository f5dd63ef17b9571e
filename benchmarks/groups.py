"""How uneven groups of random routers are in random models: on a CPU, in minutes.

    python benchmarks/groups.py --work work --json benchmarks/results/groups.json
    python benchmarks/groups.py --of parallel --groups 5 20 --json benchmarks/results/groups.json

Where a training of benchmarks/training.py begins: the same weights, drawn at random, and the same
routers, clips and VAE, at a smaller picture. --of parallel: of benchmarks/parallel.py, with weights
as diffusers makes them, and noise. Blocks are drawn one after the other in the place of one, so
that the 14B fits. A step computes as many pairs in its groups as `uneven` says, over those of equal
groups. Rows that the JSON has of the other are kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from measuring import machine
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffusers import WanTransformer3DModel

from moga.config import MoGAConfig
from moga.hosts.diffusers import enable_moga, encode_frames, load_vae
from moga.routing import Routing, random_routers
from moga.video.reader import read_frames

ROOT = Path(__file__).resolve().parents[1]
VAE = ROOT / "recipes" / "demo_model" / "vae.safetensors"
SIZES = {"1.3b": (12, 30, 8960), "14b": (40, 40, 13824)}
TEXT = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", choices=("training", "parallel"), default="training")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for the clip")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--groups", type=int, nargs="+", default=[5])
    parser.add_argument("--noise", type=float, default=0.8, help="of a training's clip")
    parser.add_argument("--frame", default="208x128")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    noise = given.noise if given.of == "training" else 1.0
    latents = clip(given) if given.of == "training" else still(given)
    there = given.json is not None and given.json.exists()
    kept = json.loads(given.json.read_text("utf-8"))["rows"] if there else []
    rows = [row for row in kept if row["of"] != given.of]
    for size, groups in product(given.size, given.groups):
        squares = measured(size, groups, latents, noise, DRAWN[given.of])
        row = {"of": given.of, "size": size, "noise": noise, "groups": groups}
        row["uneven"] = round(groups * sum(squares) / len(squares), 3)
        rows.append({**row, "by_block": [round(groups * one, 2) for one in squares]})
        print(json.dumps(rows[-1]), flush=True)
        if given.json:
            found = {"machine": machine(torch.device("cpu")), "rows": rows}
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def still(given: argparse.Namespace) -> Tensor:
    """Empty latents (1, C, t, h, w) of that size."""
    width, height = (int(n) for n in given.frame.split("x"))
    return torch.zeros(1, 16, (given.frames + 3) // 4, height // 8, width // 8)


def clip(given: argparse.Namespace) -> Tensor:
    """Latents (1, C, t, h, w) of a storyboard as benchmarks/training.py draws them."""
    out = given.work / f"clips-{given.frame}-{given.frames}"
    if not (out / "rows.jsonl").exists():
        words = ["--count", "1", "--shots", "3", "--frames", given.frames, "--size", given.frame]
        command = [sys.executable, "-m", "moga.data.storyboard", out, *words, "--fps", 16, "--even"]
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
    kept = out / "latents.safetensors"
    if kept.exists():
        return load_file(kept)["latents"]
    row = json.loads((out / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    width, height = (int(n) for n in given.frame.split("x"))
    read = read_frames(out / row["video"], fps=16, width=width, height=height, frames=given.frames)
    chunks = map(torch.from_numpy, read)
    with torch.no_grad():
        latents = encode_frames(load_vae(VAE), chunks, given.frames)
    save_file({"latents": latents.contiguous()}, kept)
    return latents


@torch.no_grad()
def measured(
    size: str, groups: int, latents: Tensor, noise: float, draw: Callable[[nn.Module], None]
) -> list[float]:
    """Of each block, the sum of the squares of its groups' shares."""
    heads, layers, inner = SIZES[size]
    torch.manual_seed(0)
    dit = WanTransformer3DModel(
        attention_head_dim=128, text_dim=TEXT, in_channels=16, out_channels=16,
        num_attention_heads=heads, num_layers=1, ffn_dim=inner,
    )  # fmt: skip
    draw(dit)
    routers = random_routers(heads * 128, groups, layers)
    enable_moga(dit, MoGAConfig(groups), {0: routers[0]})
    block, squares = dit.blocks[0], []

    def draw_next(module: nn.Module, _: tuple) -> None:
        draw(module)
        module.attn1.router.load_state_dict(routers[len(squares)])

    def note(module: nn.Module, _: tuple, routing: Routing) -> None:
        share = routing.sizes()[0] / routing.group.shape[1]
        squares.append(float((share**2).sum()))

    block.register_forward_pre_hook(draw_next)
    block.attn1.router.register_forward_hook(note)
    dit.blocks = nn.ModuleList([block] * layers)
    dit(
        hidden_states=torch.lerp(latents, torch.randn_like(latents), noise),
        timestep=torch.tensor([noise * 1000]),
        encoder_hidden_states=torch.randn(1, 512, TEXT),
        return_dict=False,
    )
    assert len(squares) == layers
    return squares


def draw_narrow(module: nn.Module) -> None:
    """As benchmarks/training.py draws a file."""
    for name, tensor in module.state_dict().items():
        if "router" not in name:
            norm = "norm" in name and name.endswith("weight")
            tensor.fill_(1) if norm else tensor.normal_(0, 0.02)


def draw_as_made(module: nn.Module) -> None:
    """As PyTorch and diffusers do when a model is made."""
    for name, part in module.named_modules():
        if "router" not in name and hasattr(part, "reset_parameters"):
            part.reset_parameters()
    for name, tensor in module.named_parameters():
        if name.endswith("scale_shift_table"):
            tensor.normal_(0, tensor.shape[-1] ** -0.5)


DRAWN = {"training": draw_narrow, "parallel": draw_as_made}

if __name__ == "__main__":
    main()
