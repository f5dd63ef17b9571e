"""Trains the demo's VAE: Wan 2.1's architecture with 16 channels, on storyboards drawn as needed.

    python recipes/demo_model/train_vae.py vae.safetensors --minutes 5 --device cuda

It learns still pictures first, which is quick, from weights that look at no frame but the present
one; then short clips, with all of its convolutions over time. The result is in Wan's own names, and
its latents have the mean and deviation that every host assumes of Wan's, so it can stand wherever
wan_2.1_vae does.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor, autocast
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from moga.data.storyboard import storyboard
from moga.hosts.diffusers.vae_names import wan_vae_names

SIZES = {"base_dim": 16, "z_dim": 16}
STILL = 64  # pixels of a square crop
FRAMES = 9
KL = 1e-5
HELD_OUT_SEED = 10**6


def main() -> None:
    options = read_options()
    torch.manual_seed(options.seed)
    vae = AutoencoderKLWan(**SIZES)
    inflate(vae)
    vae.to(options.device)
    train(vae, Stills(options.seed), 64, 0.6 * options.minutes, options)
    train(vae, Clips(options.seed), 12, 0.4 * options.minutes, options)
    vae.eval().float()
    fold_statistics(vae, *latent_statistics(vae, options.check))
    vae.to(torch.bfloat16).float()  # as it is saved
    print(f"PSNR {psnr(vae, options.check):.2f} dB on held-out storyboards", flush=True)
    if options.sheet:
        write_sheet(vae, options.sheet)
    save(vae, options.out)
    print(f"wrote {options.out}, {options.out.stat().st_size / 1e6:.2f} MB")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=int, default=24, help="storyboards to measure on")
    parser.add_argument("--sheet", type=Path, help="picture of originals over reconstructions")
    return parser.parse_args()


@torch.no_grad()
def inflate(vae: AutoencoderKLWan) -> None:
    """Weights to begin with: every frame by itself, residual blocks and attention add nothing."""
    for name, layer in vae.named_modules():
        if name.endswith("time_conv"):  # halves or doubles the frames: drop one, or repeat
            layer.weight.zero_()
            layer.bias.zero_()
            unit = torch.eye(layer.weight.shape[1])
            layer.weight[:, :, -1, 0, 0] = unit.repeat(len(layer.weight) // len(unit), 1)
        elif isinstance(layer, torch.nn.Conv3d) and layer.kernel_size[0] == 3:
            layer.weight[:, :, :-1] = 0
            layer.weight *= math.sqrt(3)
        if name.endswith("conv2") or (name.endswith("proj") and "attentions" in name):
            layer.weight.zero_()
            layer.bias.zero_()


class Drawn(IterableDataset):
    """Parts of storyboards without end, uint8 (T, H, W, 3)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[Tensor]:
        info = torch.utils.data.get_worker_info()
        random = np.random.default_rng((self.seed, 0 if info is None else info.id))
        while True:
            story = storyboard(int(random.integers(HELD_OUT_SEED)), shots=4, frames=61)
            frames = np.concatenate(list(story.render()))
            yield from map(torch.from_numpy, self.parts(frames, random))

    def parts(self, frames: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        raise NotImplementedError


class Stills(Drawn):
    """Square crops of single frames."""

    def parts(self, frames: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        height, width = frames.shape[1:3]
        for frame in frames[random.permutation(len(frames))[:40]]:
            top = 8 * random.integers((height - STILL) // 8 + 1)
            left = 8 * random.integers(2, (width - STILL) // 8 - 1)  # the middle, where it happens
            yield frame[None, top : top + STILL, left : left + STILL]


class Clips(Drawn):
    """Whole frames, a few in a row, with a cut in some."""

    def parts(self, frames: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        for start in random.integers(0, len(frames) - FRAMES + 1, size=6):
            yield frames[start : start + FRAMES]


class Muon(torch.optim.Optimizer):
    """Muon for convolutions: steps along the momentum's orthogonal part, kernels as matrices."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(gradient, 1 - group["momentum"])
                step = gradient.lerp(momentum, group["momentum"]).flatten(1)
                alike.setdefault(step.shape, []).append((parameter, step))
            for shape, pairs in alike.items():
                steps = orthogonal(torch.stack([step for _, step in pairs]))
                scale = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for (parameter, _), step in zip(pairs, steps, strict=True):
                    parameter.add_(step.reshape(parameter.shape), alpha=-scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the orthogonal factors of matrices (B, m, n), by Newton and Schulz' iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.mT if tall else x


def train(
    vae: AutoencoderKLWan, data: Drawn, batch: int, minutes: float, options: argparse.Namespace
) -> None:
    """Fit the VAE for so many minutes, the learning rate going down with the time that is left."""
    cuda = options.device.startswith("cuda")
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    loader = DataLoader(
        data,
        batch,
        num_workers=options.workers,
        pin_memory=cuda,
        prefetch_factor=4 if options.workers else None,
    )
    kernels = [p for p in vae.parameters() if p.ndim >= 4]
    others = [p for p in vae.parameters() if p.ndim < 4]
    optimizers = [Muon(kernels, options.lr), torch.optim.AdamW(others, options.lr / 10,
                                                               weight_decay=0)]  # fmt: skip
    start = time.monotonic()
    for step, clips in enumerate(loader, start=1):
        share = (time.monotonic() - start) / (60 * minutes)
        if share >= 1:
            break
        for optimizer, lr in zip(optimizers, (options.lr, options.lr / 10), strict=True):
            optimizer.param_groups[0]["lr"] = lr * min(1.0, step / 50) * (1 - share)
        video = as_video(clips.to(options.device, non_blocking=True))
        with autocast(options.device.partition(":")[0], torch.bfloat16, enabled=cuda):
            posterior = vae.encode(video, return_dict=False)[0]
            found = vae.decode(posterior.sample(), return_dict=False)[0].float()
        loss = distance(found, video) + KL * posterior.kl().mean() / posterior.mean[0].numel()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for parameter in kernels:  # a layer that this length does not use
            parameter.grad = (
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 100 == 1:
            rate = step / (time.monotonic() - start)
            psnr = 10 * math.log10(4 / (found - video).square().mean().item())
            what = type(data).__name__.lower()
            print(f"{what} {step}: PSNR {psnr:.1f} dB, {rate:.2f} steps/s", flush=True)


def distance(found: Tensor, video: Tensor) -> Tensor:
    """Of pixels, and of the differences between neighbours, which keep edges sharp."""
    off = found - video
    edges = sum(off.diff(dim=d).abs().mean() for d in (-1, -2))
    return off.abs().mean() + off.square().mean() + 0.5 * edges


def as_video(clips: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> (B, 3, T, H, W), values -1 to 1."""
    return clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def films(count: int, device: torch.device) -> Iterator[Tensor]:
    """Held-out storyboards, (1, 3, 61, H, W) each."""
    for seed in range(count):
        story = storyboard(HELD_OUT_SEED + seed, shots=3, frames=61, held_out=True)
        frames = np.concatenate(list(story.render()))
        yield as_video(torch.from_numpy(frames)[None].to(device))


@torch.no_grad()
def latent_statistics(vae: AutoencoderKLWan, count: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each latent channel, (z,) each."""
    device = next(vae.parameters()).device
    found = [vae.encode(film, return_dict=False)[0].mode() for film in films(count, device)]
    channels = torch.cat(found).transpose(0, 1).flatten(1)
    return channels.mean(1), channels.std(1)


@torch.no_grad()
def fold_statistics(vae: AutoencoderKLWan, mean: Tensor, std: Tensor) -> None:
    """Give latents of this mean and deviation those of Wan's, leaving what is decoded the same.

    Both ends of the latent are 1 x 1 x 1 convolutions, so scale and shift go into their weights.
    """
    wanted_mean, wanted_std = (
        torch.tensor(values, device=mean.device)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    scale = wanted_std / std
    shift = wanted_mean - mean * scale
    into, out_of = vae.quant_conv, vae.post_quant_conv
    z = len(mean)
    into.weight[:z] *= scale.view(-1, 1, 1, 1, 1)
    into.bias[:z] = into.bias[:z] * scale + shift
    into.bias[z:] += 2 * scale.log()  # log-variances
    out_of.bias -= (out_of.weight[:, :, 0, 0, 0] / scale) @ shift
    out_of.weight /= scale.view(1, -1, 1, 1, 1)


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, count: int) -> float:
    device = next(vae.parameters()).device
    errors = [F.mse_loss(rebuilt(vae, film), film).item() for film in films(count, device)]
    return 10 * math.log10(4 / np.mean(errors))


@torch.no_grad()
def rebuilt(vae: AutoencoderKLWan, film: Tensor) -> Tensor:
    latent = vae.encode(film, return_dict=False)[0].mode()
    return vae.decode(latent, return_dict=False)[0].clamp(-1, 1)


def write_sheet(vae: AutoencoderKLWan, path: Path) -> None:
    from PIL import Image

    device = next(vae.parameters()).device
    rows = []
    for film in films(6, device):
        pair = [film, rebuilt(vae, film)]
        rows += [torch.cat([v[0, :, t] for t in (3, 16, 20, 58)], -1) for v in pair]
    picture = torch.cat(rows, 1).permute(1, 2, 0).add(1).mul(127.5).round().byte()
    Image.fromarray(picture.cpu().numpy()).save(path)


def save(vae: AutoencoderKLWan, path: Path) -> None:
    state = vae.state_dict()
    names = wan_vae_names(state)
    tensors = {names[n]: t.to(torch.bfloat16).cpu().contiguous() for n, t in state.items()}
    save_file(tensors, path)


if __name__ == "__main__":
    main()
