"""Which of ComfyUI's models can take MoGA."""

from __future__ import annotations

import math

import comfy.ldm.wan.model
import comfy.model_patcher
from torch import Tensor, nn

from ...errors import MogaError
from ...wan import SPATIAL_STRIDE, WIDE_CHANNELS, WIDE_FPS, WIDE_SPATIAL_STRIDE

# Wan variants whose blocks do not run one self-attention over one grid of video tokens.
_REFUSED = {
    "WanModel_S2V": "Wan 2.2 S2V",
    "WanAnimate2Model": "Wan Animate 2",
    "CausalWanModel": "a causal (autoregressive) Wan",
}
# Variants whose latents may begin with reference frames, and with how many.
_LEADING_FRAMES = {"VaceWanModel": 1, "AnimateWanModel": math.inf}
# Variants that put a reference video in front themselves, as frames of the grid.
_REFERENCE_VIDEO = ("SCAILWanModel", "SCAIL2WanModel")


class UnsupportedModelError(MogaError, ValueError):
    """A MODEL that MoGA cannot be applied to; the message names what it is."""


def wan_model(model: comfy.model_patcher.ModelPatcher) -> nn.Module:
    """The Wan transformer inside a MODEL. Raises UnsupportedModelError for anything else."""
    dit = model.model.diffusion_model
    if not isinstance(dit, comfy.ldm.wan.model.WanModel):
        raise UnsupportedModelError(
            f"model is {type(model.model).__name__}, not Wan; connect a Wan 2.1 or 2.2 model."
        )
    name = type(dit).__name__
    known = _REFUSED.get(name)
    plain = comfy.ldm.wan.model.WanSelfAttention
    if known is None and any(type(block.self_attn) is not plain for block in dit.blocks):
        known = f"the Wan variant {name}"
    if known is not None:
        raise UnsupportedModelError(
            f"model is {known}, whose attention MoGA does not replace; connect a text-to-video, "
            "image-to-video, Fun, VACE, Phantom, SCAIL or Animate model of Wan."
        )
    return dit


def token_pixels(dit: nn.Module) -> int:
    """Pixels of a token, along height and width: Wan 2.2 5B's VAE halves them once more."""
    stride = WIDE_SPATIAL_STRIDE if dit.out_dim == WIDE_CHANNELS else SPATIAL_STRIDE
    return stride * dit.patch_size[1]


def made_for_fps(dit: nn.Module) -> int | None:
    """The frame rate that a model was trained at where it can have no other; None for the rest.

    Wan 2.2 5B. The 14B and 1.3B models were trained at 16, and MoGA checkpoints may be at 24.
    """
    return WIDE_FPS if dit.out_dim == WIDE_CHANNELS else None


def most_leading_frames(dit: nn.Module) -> float:
    """With how many reference frames, which no shot covers, a latent of this model may begin."""
    return _LEADING_FRAMES.get(type(dit).__name__, 0)


def reference_frames(dit: nn.Module, reference: Tensor | None) -> int:
    """Frames of tokens that the model puts in front of the video for its `reference_latent`.

    reference: (B, C, t, h, w), or for Fun control (B, C, h, w). HuMo's go behind the video.
    """
    if reference is None:
        return 0
    if type(dit).__name__ in _REFERENCE_VIDEO:
        return -(-reference.shape[2] // dit.patch_size[0])
    return 0 if getattr(dit, "ref_conv", None) is None else 1
