"""Wan's own names for the weights of its VAEs, diffusers' names for them, settings from shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ...wan import WIDE_CHANNELS
from .names import Shapes

# A residual block: its layers by position, and diffusers' names for them.
_RESIDUAL = {"0": "norm1", "2": "conv1", "3": "norm2", "6": "conv2"}
_FIXED = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    **{
        f"{side}.{wan}": f"{side}.{name}"
        for side in ("encoder", "decoder")
        for wan, name in (
            ("conv1", "conv_in"),
            ("head.0", "norm_out"),
            ("head.2", "conv_out"),
            ("middle.1.norm", "mid_block.attentions.0.norm"),
            ("middle.1.to_qkv", "mid_block.attentions.0.to_qkv"),
            ("middle.1.proj", "mid_block.attentions.0.proj"),
            *(
                (f"middle.{at}.residual.{n}", f"mid_block.resnets.{at // 2}.{layer}")
                for at in (0, 2)
                for n, layer in _RESIDUAL.items()
            ),
        )
    },
}
_MOST_BLOCKS = 16  # on one side
_UP_STAGE = 4  # three residual blocks and an upsampler in each stage of Wan 2.1's decoder

# How the latents of Wan 2.2's VAE are normalised, per channel. (Wan 2.1's are diffusers' defaults.)
# fmt: off
_MEAN_22 = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
]
_STD_22 = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
]
# fmt: on


def vae_config(shapes: Shapes) -> dict[str, Any] | None:
    """Settings of `AutoencoderKLWan` from the shapes of a file; None if it is another model."""
    by_name = {name: shapes[key] for key, name in vae_names(shapes).items()}
    try:
        base, channels = by_name["encoder.conv_in.weight"][:2]
        latent = by_name["post_quant_conv.weight"][0]
        decoder_base = by_name["decoder.norm_out.gamma"][0]
        out_channels = by_name["decoder.conv_out.weight"][0]
    except (KeyError, IndexError, ValueError):
        return None
    if 0 in (base, decoder_base, out_channels):
        return None
    common = {"base_dim": base, "z_dim": latent, "decoder_base_dim": decoder_base}
    if channels == 3 and latent == 16:
        return {**common, "in_channels": 3, "out_channels": out_channels}
    if channels == 12 and latent == WIDE_CHANNELS:
        return {
            **common,
            "in_channels": 12,
            "out_channels": out_channels,
            "is_residual": True,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": _MEAN_22,
            "latents_std": _STD_22,
        }
    return None


def vae_names(shapes: Shapes) -> dict[str, str]:
    """diffusers' name for each weight of a VAE file in either naming."""
    if "post_quant_conv.weight" in shapes:
        return {key: key for key in shapes}
    nested = "decoder.upsamples.0.upsamples.0.residual.2.weight" in shapes
    rename = _nested_name if nested else _flat_name
    return {key: rename(key) for key in shapes}


def wan_vae_names(names: Iterable[str]) -> dict[str, str]:
    """Wan 2.1's name for each weight of an `AutoencoderKLWan`: the opposite of `vae_names`."""
    layers = [f"residual.{at}" for at in _RESIDUAL]
    layers += ["shortcut", "resample.1", "time_conv"]
    blocks = [
        f"{side}.{way}samples.{number}.{layer}"
        for side, way in (("encoder", "down"), ("decoder", "up"))
        for number in range(_MOST_BLOCKS)
        for layer in layers
    ]
    leaves = ("weight", "bias", "gamma")
    candidates = (f"{parent}.{leaf}" for parent in (*blocks, *_FIXED) for leaf in leaves)
    by_name = {_flat_name(key): key for key in candidates}
    return {name: by_name[name] for name in names}


def _flat_name(key: str) -> str:
    """Wan 2.1: all blocks of a side in one list."""
    return (
        _named(key, r"(encoder)\.downsamples\.(\d+)\.(.+)", _flat_down)
        or _named(key, r"(decoder)\.upsamples\.(\d+)\.(.+)", _flat_up)
        or _fixed(key)
    )


def _flat_down(match: re.Match[str]) -> str:
    return f"encoder.down_blocks.{match[2]}.{_residual(match[3])}"


def _flat_up(match: re.Match[str]) -> str:
    stage, at = divmod(int(match[2]), _UP_STAGE)
    if at == _UP_STAGE - 1:
        return f"decoder.up_blocks.{stage}.upsamplers.0.{match[3]}"
    return f"decoder.up_blocks.{stage}.resnets.{at}.{_residual(match[3])}"


def _nested_name(key: str) -> str:
    """Wan 2.2: stages of blocks; the last of a stage may change the size."""
    pattern = r"(encoder|decoder)\.(down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)"
    return _named(key, pattern, _nested) or _fixed(key)


def _nested(match: re.Match[str]) -> str:
    side, way, stage, at, rest = match.groups()
    if rest.startswith(("residual.", "shortcut.")):
        return f"{side}.{way}_blocks.{stage}.resnets.{at}.{_residual(rest)}"
    return f"{side}.{way}_blocks.{stage}.{way}sampler.{rest}"


def _named(key: str, pattern: str, rename: Callable[[re.Match[str]], str]) -> str | None:
    match = re.fullmatch(pattern, key)
    return rename(match) if match else None


def _residual(rest: str) -> str:
    """residual.2.weight -> conv1.weight; shortcut.weight -> conv_shortcut.weight."""
    first, _, tail = rest.partition(".")
    if first == "shortcut":
        return f"conv_shortcut.{tail}"
    at, _, leaf = tail.partition(".")
    return f"{_RESIDUAL[at]}.{leaf}" if first == "residual" and at in _RESIDUAL else rest


def _fixed(key: str) -> str:
    parent, _, leaf = key.rpartition(".")
    return f"{_FIXED[parent]}.{leaf}" if parent in _FIXED else key
