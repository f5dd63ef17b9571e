"""diffusers' own Wan pipelines, put together from single files; and what they are called with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from torch import Tensor

from ...checkpoint import CheckpointError
from ...kernels import AUTO
from ...shots import ShotList
from ...video.writer import VideoWriter
from ...wan import TEXT_TOKENS, WIDE_CHANNELS
from . import folders
from .calls import ShotCall, ShotMismatchError
from .enable import is_enabled
from .text_encoder import check_lengths, load_text_encoder
from .transformer import load_wan
from .vae import check_latents, decode_frames, load_vae

PathLike = str | os.PathLike[str]
SCHEDULERS = ("unipc", "euler")
# Where Wan 2.2 A14B hands over from its high-noise to its low-noise expert, of all timesteps.
BOUNDARY_TEXT, BOUNDARY_IMAGE = 0.875, 0.9


def load_pipeline(
    model: PathLike,
    *,
    vae: PathLike | None = None,
    text_encoder: PathLike | None = None,
    image_encoder: PathLike | None = None,
    model_low: PathLike | None = None,
    routers: PathLike | None = None,
    routers_low: PathLike | None = None,
    with_text: bool = True,
    from_image: bool = False,
    boundary: float | None = None,
    scheduler: str = "unipc",
    shift: float = 5.0,
    dtype: torch.dtype | None = None,
    backend: str = AUTO,
) -> WanPipeline | WanImageToVideoPipeline:
    """A Wan pipeline on the CPU, MoGA enabled where there are routers. Nothing is downloaded.

    model: a single file or a diffusers folder, as `load_wan` takes it; with `model_low`, the
        high-noise expert of Wan 2.2. Whatever else is None comes from that folder, if it is one.
    vae, text_encoder, image_encoder: files as ComfyUI users have them, or diffusers folders.
        Without a text encoder, or without `with_text`, embeddings have to be given.
    routers, routers_low: router files for the two models.
    from_image: begin with an image also where the model could do without (the 5B model).
    boundary: share of the timesteps that the low-noise expert gets; None is what Wan was made with.
    scheduler: "unipc" or "euler", both over flow matching's sigmas, moved by `shift`.
    Raises CheckpointError for files that are missing, damaged or do not fit, ConfigError for MoGA
    settings that cannot be used, BackendError.
    """
    whole = pipeline_folder(model)
    options = {"dtype": dtype, "backend": backend}
    transformer = load_wan(model, routers=routers, **options)
    low = model_low or (whole if whole and (whole / "transformer_2").is_dir() else None)
    if low is not None and low == whole:
        low = whole / "transformer_2"
    transformer_2 = None if low is None else load_wan(low, routers=routers_low, **options)
    if transformer_2 is not None:
        check_pair(transformer.config, transformer_2.config)
    image = from_image or takes_image(transformer.config)
    wide = transformer.config.in_channels == WIDE_CHANNELS
    autoencoder = load_vae(_needed("vae", vae or whole), dtype=dtype)
    check_vae(autoencoder.config.z_dim, transformer.config.out_channels)
    encoder, tokenizer = None, None
    if with_text and (text_encoder or whole):
        encoder, tokenizer = load_text_encoder(text_encoder or whole, dtype=dtype)
        check_text_width(encoder.config.d_model, transformer.config.text_dim)
    parts: dict[str, Any] = {
        "vae": autoencoder,
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "transformer": transformer,
        "transformer_2": transformer_2,
        "scheduler": make_scheduler(scheduler, shift),
        "expand_timesteps": wide,
    }
    if transformer_2 is not None:
        parts["boundary_ratio"] = boundary or (BOUNDARY_IMAGE if image else BOUNDARY_TEXT)
    if not image:
        return WanPipeline(**parts)
    if transformer.config.image_dim is not None:
        parts |= _image_parts(_needed("image encoder", image_encoder or whole), whole)
    return WanImageToVideoPipeline(**parts)


def shot_inputs(
    pipe: WanPipeline | WanImageToVideoPipeline,
    shots: ShotList,
    negative_prompt: str = "",
    *,
    embeddings: Tensor | None = None,
    negative_embeddings: Tensor | None = None,
) -> dict[str, Any]:
    """What to call a Wan pipeline with for a shot list: `pipe(**shot_inputs(pipe, shots), ...)`.

    embeddings: (shots, K, C) text of each shot, used instead of the pipeline's text encoder;
        negative_embeddings: (1 or shots, K, C).
    Raises ShotMismatchError, also for captions that are too long and for text that isn't numbers.
    """
    for transformer in (pipe.transformer, pipe.transformer_2):
        if transformer is not None and not is_enabled(transformer):
            raise ShotMismatchError(
                "the pipeline's transformer has no MoGA, so diffusers would drop the shots "
                "silently; call enable_moga (with config None for plain attention)."
            )
    if embeddings is None:
        if pipe.text_encoder is None:
            raise ShotMismatchError(
                "the pipeline has no text encoder; load it with text_encoder=, or pass embeddings."
            )
        texts = (*shots.texts, negative_prompt)
        check_lengths(pipe.tokenizer, texts)
        encoded = {text: _encode(pipe, text) for text in dict.fromkeys(texts)}
        embeddings = torch.cat([encoded[text] for text in shots.texts])
        negative_embeddings = encoded[negative_prompt]
    width = pipe.transformer.config.text_dim
    check_embeddings(embeddings.shape, len(shots.shots), width)
    for given in (embeddings, negative_embeddings):
        if given is not None and not given.isfinite().all():
            raise ShotMismatchError(
                "the text has values that aren't numbers (NaN or infinite); use a whole text "
                "encoder, in bfloat16 or float32."
            )
    positive = embeddings.to(pipe._execution_device)
    inputs = {
        "prompt_embeds": _joined(positive),
        "num_frames": shots.frames,
        "attention_kwargs": {"moga": ShotCall.of(shots, positive.shape[1])},
    }
    if negative_embeddings is not None:
        # Every shot reads a copy, which is the same as all reading one; so both calls are alike.
        negative = negative_embeddings.to(positive.device).expand(len(positive), -1, -1)
        if negative.shape != positive.shape:
            raise ShotMismatchError(
                f"the negative embeddings are {tuple(negative_embeddings.shape)}, those of the "
                f"shots {tuple(positive.shape)}; encode both to the same length."
            )
        inputs["negative_prompt_embeds"] = _joined(negative)
    return inputs


def check_embeddings(shape: Sequence[int], shots: int, text_dim: int) -> None:
    """Raise ShotMismatchError unless embeddings of that shape are (shots, K, text_dim)."""
    if len(shape) != 3 or shape[0] != shots or shape[2] != text_dim:
        raise ShotMismatchError(
            f"the embeddings are {tuple(shape)}, but the script has {shots} shots and the model "
            f"reads text of width {text_dim}; give ({shots}, tokens, {text_dim})."
        )


def save_video(
    pipe: WanPipeline | WanImageToVideoPipeline,
    latents: Tensor,
    path: PathLike,
    fps: float | Fraction,
) -> int:
    """Decode what a pipeline gave for output_type="latent" into an mp4, a few frames at a time.

    Returns the number of frames. Raises ValueError, FileExistsError and VideoError.
    """
    size = check_latents(pipe.vae, latents)
    with VideoWriter(path, size.width, size.height, fps) as video:
        decode_frames(
            pipe.vae,
            latents,
            lambda frames: video.write(frames.numpy()),
            device=pipe._execution_device,
        )
    pipe.maybe_free_model_hooks()
    return size.frames


def make_scheduler(name: str, shift: float) -> Any:
    """One of SCHEDULERS, set up for Wan's flow matching."""
    if name == "unipc":
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    raise ValueError(f"scheduler is {name!r}; choose one of {', '.join(SCHEDULERS)}.")


def takes_image(config: Any) -> bool:
    """Whether a transformer with these settings needs a first frame: it has channels for one."""
    return config["in_channels"] != config["out_channels"]


def check_vae(latent_channels: int, wanted: int) -> None:
    """Raise CheckpointError unless the VAE has the latent channels that the transformer wants."""
    if latent_channels != wanted:
        right = "wan2.2_vae" if wanted == WIDE_CHANNELS else "wan_2.1_vae"
        raise CheckpointError(
            f"the VAE has {latent_channels} latent channels, the model {wanted}; "
            f"use {right}.safetensors."
        )


def check_text_width(width: int, wanted: int) -> None:
    """Raise CheckpointError unless the text encoder is as wide as the transformer expects."""
    if width != wanted:
        raise CheckpointError(
            f"the text encoder gives text of width {width}, the model reads {wanted}; use the "
            "text encoder that belongs to the model (umt5_xxl for Wan)."
        )


def check_pair(high: Mapping[str, Any], low: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless two transformers with these settings can share one sampling."""
    for name in ("in_channels", "out_channels", "text_dim", "image_dim"):
        if high[name] != low[name]:
            raise CheckpointError(
                f"the two models differ in {name} ({high[name]} and {low[name]}); "
                "give the high-noise and the low-noise file of the same Wan 2.2 model."
            )


def _encode(pipe: Any, text: str) -> Tensor:
    with torch.no_grad():
        return pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
        )[0]


def _joined(embeddings: Tensor) -> Tensor:
    """(shots, K, C) -> (1, shots * K, C)"""
    return embeddings.flatten(0, 1).unsqueeze(0)


def pipeline_folder(path: PathLike) -> Path | None:
    """The folder of a whole diffusers pipeline, or None. Raises CheckpointError for another one."""
    index = Path(path) / "model_index.json"
    if not os.path.isfile(index):
        return None
    kind = folders.read_object(index).get("_class_name")
    if kind not in (WanPipeline.__name__, WanImageToVideoPipeline.__name__):
        raise CheckpointError(
            f"{path} holds a {kind}; choose a WanPipeline or WanImageToVideoPipeline."
        )
    return Path(path)


def _needed(what: str, path: PathLike | None) -> PathLike:
    if path is None:
        files = {"vae": "wan_2.1_vae.safetensors (wan2.2_vae.safetensors for the 5B model)"}
        name = files.get(what, "clip_vision_h.safetensors")
        raise CheckpointError(f"the {what} is missing; give {name}.")
    return path


def _image_parts(path: PathLike, whole: Path | None) -> dict[str, Any]:
    if whole is not None and Path(path) == whole:
        try:
            pipe = DiffusionPipeline.from_pretrained(
                whole, transformer=None, transformer_2=None, vae=None, text_encoder=None,
                tokenizer=None, local_files_only=True,
            )  # fmt: skip
        except Exception as error:  # whatever diffusers trips over
            raise folders.damaged(whole, error) from error
        return {"image_encoder": pipe.image_encoder, "image_processor": pipe.image_processor}
    from .image_encoder import load_image_encoder

    encoder, processor = load_image_encoder(path)
    return {"image_encoder": encoder, "image_processor": processor}
