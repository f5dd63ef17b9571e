"""diffusers' own Wan pipelines, put together from single files; and what they are called with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from diffusers import (
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
from .image_encoder import ImageEncoder, open_image_encoder
from .parts import PathLike, check_together
from .text_encoder import TextEncoder, check_lengths, open_text_encoder
from .transformer import Transformer, open_wan
from .vae import Vae, check_latents, decode_frames, open_vae

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
    text = text_encoder or whole if with_text else None
    transformer = open_wan(model, routers)
    second = low_noise_expert(whole, model_low)
    image = image_encoder or whole
    if transformer.config.get("image_dim") is None or not (from_image or transformer.takes_image):
        image = None
    elif image is None:
        raise _missing("image encoder", "clip_vision_h.safetensors")
    if vae is None and whole is None:
        raise _missing("vae", "wan_2.1_vae.safetensors (wan2.2_vae.safetensors for the 5B model)")
    parts = PipelineParts(
        transformer=transformer,
        transformer_2=None if second is None else open_wan(second, routers_low),
        vae=open_vae(vae or whole),
        text_encoder=None if text is None else open_text_encoder(text),
        image_encoder=None if image is None else open_image_encoder(image),
    )
    parts.check_together()
    return build_pipeline(
        parts,
        from_image=from_image,
        boundary=boundary,
        scheduler=make_scheduler(scheduler, shift),
        dtype=dtype,
        backend=backend,
    )


@dataclass(frozen=True)
class PipelineParts:
    """The models of a pipeline, opened. transformer_2: the low-noise expert of Wan 2.2."""

    transformer: Transformer
    vae: Vae
    transformer_2: Transformer | None = None
    text_encoder: TextEncoder | None = None
    image_encoder: ImageEncoder | None = None

    def check_together(self) -> None:
        """Raise CheckpointError unless they belong together."""
        check_together(
            self.transformer,
            self.vae,
            self.text_encoder,
            image_encoder=self.image_encoder,
            low=self.transformer_2,
        )


def build_pipeline(
    parts: PipelineParts,
    *,
    from_image: bool,
    boundary: float | None,
    scheduler: Any,
    dtype: torch.dtype | None,
    backend: str,
) -> WanPipeline | WanImageToVideoPipeline:
    """Load parts that belong together into a pipeline on the CPU; see `load_pipeline`.

    Raises CheckpointError for weights that are damaged, BackendError.
    """
    encoder, tokenizer = (
        (None, None) if parts.text_encoder is None else parts.text_encoder.load(dtype)
    )
    low = parts.transformer_2
    models: dict[str, Any] = {
        "vae": parts.vae.load(dtype),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "transformer": parts.transformer.load(dtype, backend=backend),
        "transformer_2": None if low is None else low.load(dtype, backend=backend),
        "scheduler": scheduler,
        "expand_timesteps": parts.transformer.config["in_channels"] == WIDE_CHANNELS,
    }
    image = from_image or parts.transformer.takes_image
    if low is not None:
        models["boundary_ratio"] = boundary or (BOUNDARY_IMAGE if image else BOUNDARY_TEXT)
    if not image:
        return WanPipeline(**models)
    if parts.image_encoder is not None:
        models["image_encoder"], models["image_processor"] = parts.image_encoder.load()
    return WanImageToVideoPipeline(**models)


def shot_inputs(
    pipe: WanPipeline | WanImageToVideoPipeline,
    shots: ShotList,
    negative_prompt: str | None = None,
    *,
    embeddings: Tensor | None = None,
    negative_embeddings: Tensor | None = None,
) -> dict[str, Any]:
    """What to call a Wan pipeline with for a shot list: `pipe(**shot_inputs(pipe, shots), ...)`.

    negative_prompt: instead of the shots' own, which is theirs unless it is given.
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
        negative = shots.negative if negative_prompt is None else negative_prompt
        texts = (*shots.texts, negative)
        check_lengths(pipe.tokenizer, texts)
        encoded = {text: _encode(pipe, text) for text in dict.fromkeys(texts)}
        embeddings = torch.cat([encoded[text] for text in shots.texts])
        negative_embeddings = encoded[negative]
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


def low_noise_expert(whole: Path | None, given: PathLike | None) -> PathLike | None:
    """Where the low-noise expert of Wan 2.2 lies: as it was given, or in the pipeline's folder."""
    if whole is None or (given is not None and Path(given) != whole):
        return given
    own = whole / "transformer_2"
    return own if given is not None or own.exists() else None


def _missing(what: str, files: str) -> CheckpointError:
    return CheckpointError(f"the {what} is missing; give {files}.")
