"""The model files of a run, opened and judged before anything large is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..hosts.diffusers import (
    ImageEncoder,
    LoraFile,
    Part,
    PipelineParts,
    TextEncoder,
    Transformer,
    Vae,
    low_noise_expert,
    open_image_encoder,
    open_text_encoder,
    open_vae,
    open_wan,
    pipeline_folder,
)
from ..wan import PATCH, WIDE_CHANNELS
from .options import DENSE, Options, UsageError


@dataclass(frozen=True)
class Models:
    """All models of a run. pipeline: None where latents are only decoded, by the VAE alone."""

    vae: Vae
    pipeline: PipelineParts | None

    @property
    def transformers(self) -> tuple[Transformer, ...]:
        """The one of the run, or the high-noise and the low-noise expert."""
        parts = self.pipeline
        return (
            () if parts is None else tuple(filter(None, (parts.transformer, parts.transformer_2)))
        )

    @property
    def first(self) -> Transformer:
        return self.transformers[0]

    @property
    def others(self) -> tuple[Part, ...]:
        """What isn't a transformer."""
        parts = self.pipeline
        if parts is None:
            return (self.vae,)
        return tuple(filter(None, (self.vae, parts.text_encoder, parts.image_encoder)))

    @property
    def patch(self) -> int:
        """Latent pixels of a token, along height and width."""
        return self.first.config["patch_size"][1] if self.transformers else PATCH


def open_models(options: Options) -> Models:
    """Open all model files and the routers, and hold them against each other.

    Raises UsageError, CheckpointError and ConfigError, each with what to give instead.
    """
    whole = pipeline_folder(options.model) if options.model else None
    if (path := options.vae or whole) is None:
        raise UsageError(
            "--vae is missing; give wan_2.1_vae.safetensors (wan2.2_vae.safetensors for the 5B "
            "model)."
        )
    vae = open_vae(path)
    if options.latents is not None:
        return Models(vae, None)
    transformer = _transformer(options, options.model)
    second = low_noise_expert(whole, options.model_low)
    low = None
    if second is not None:
        low = _transformer(options, second, low=True)
    _check_image(options, transformer)
    pipeline = PipelineParts(
        transformer,
        vae,
        low,
        _text_encoder(options, options.text_encoder or whole),
        _image_encoder(options, transformer, options.image_encoder or whole),
    )
    pipeline.check_together()
    return Models(vae, pipeline)


def _transformer(options: Options, path: Path, low: bool = False) -> Transformer:
    """The model, or the high-noise expert; or the low-noise one."""
    flag, routers, asked = (
        ("--routers-low", options.routers_low, options.loras_low)
        if low
        else ("--routers", options.routers, options.loras)
    )
    loras = [LoraFile(lora.path, lora.weight) for lora in asked]
    if options.attention == DENSE:
        return open_wan(path, loras=loras, dense=True)
    fix = f"give {flag} FILE, or --attention dense for plain Wan with a text per shot"
    return open_wan(path, routers, loras=loras, needed=fix)


def _check_image(options: Options, transformer: Transformer) -> None:
    could = transformer.config["out_channels"] == WIDE_CHANNELS  # the 5B model does both
    if transformer.takes_image and options.image is None:
        raise UsageError(f"{transformer.name} begins with an image; give --image FILE.")
    if options.image is not None and not (transformer.takes_image or could):
        raise UsageError(
            f"{transformer.name} is a text-to-video model; leave --image out, or choose an "
            "image-to-video model."
        )


def _text_encoder(options: Options, path: Path | None) -> TextEncoder | None:
    if options.embeddings:
        return None
    if path is None:
        raise UsageError(
            "--text-encoder is missing; give umt5_xxl_fp16.safetensors, or --embeddings."
        )
    return open_text_encoder(path)


def _image_encoder(
    options: Options, transformer: Transformer, path: Path | None
) -> ImageEncoder | None:
    """What the transformer looks at the image through, if it does."""
    if options.image is None or not transformer.config.get("image_dim"):
        return None
    if path is None:
        raise UsageError(
            f"{transformer.name} looks at the image through CLIP; give "
            "--image-encoder clip_vision_h.safetensors."
        )
    return open_image_encoder(path)
