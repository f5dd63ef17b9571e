"""Writing a cache: everything that is missing, once; one that was cut off goes on where it was.

Videos are encoded a few frames at a time.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import WanPipeline
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ...data.rows import Examined
from ...files import require_space, written_whole
from ...hosts.diffusers import (
    check_lengths,
    encode_frames,
    load_text_encoder,
    load_tokenizer,
    load_vae,
)
from ...shots.script import shorten
from ...video.reader import VideoReadError, read_frames
from ...wan import CHANNELS, SPATIAL_STRIDE, TEXT_TOKENS, latent_frames
from ..folders import unwritable
from .missing import find_missing, refuse_unwritable
from .partials import writing_cache
from .reader import LATENT, TEXT, read_cache
from .spec import (
    CacheError,
    CacheSpec,
    Piece,
    check_multiple,
    text_file,
    vae_settings,
)

_ABOUT = "moga_clip"  # in the header, for people: the names of files say nothing
_TEXT_WIDTH = 4096  # of UMT5-XXL, the only one that Wan has
_PATCH = 2  # latent pixels of a token, along height and width


def make_cache(
    spec: CacheSpec, rows: Sequence[Examined], *, extra_texts: Sequence[str] = ()
) -> None:
    """Write everything that is missing: pieces of all lengths, their texts, and the empty text.

    extra_texts: further ones to encode. Raises CacheError, CheckpointError for files that are no
    models of Wan, ShotMismatchError for a text of more than 512 tokens. What was written before an
    error or an interruption stays and is not computed again.
    """
    _check_size(spec)
    missing = find_missing(spec, rows, extra_texts)
    if missing.texts:
        # Before the encoder is read, which takes its time.
        check_lengths(load_tokenizer(spec.text_encoder), list(map(prompt_clean, missing.texts)))
    if missing:
        if why := unwritable(spec.folder):
            raise CacheError(f"{spec.folder} cannot be made ({why}); choose another folder.")
        _check_room(spec, missing.pieces.values(), missing.texts)
        try:
            for folder in ("latents", "texts"):
                (spec.folder / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"{spec.folder} cannot be made ({error.strerror}); choose another folder."
            ) from None
        refuse_unwritable(spec, missing)
    spec.contents.save()
    if missing:
        with writing_cache(spec.folder) as word:
            if missing.texts:
                _encode_texts(spec, missing.texts, word)
                _free()
            if missing.pieces:
                _encode_pieces(spec, missing.pieces, word)
                _free()
    for seconds in spec.lengths:
        read_cache(spec, rows, seconds)


def _encode_texts(spec: CacheSpec, texts: Sequence[str], word: str) -> None:
    encoder, tokenizer = load_text_encoder(spec.text_encoder, dtype=spec.dtype)
    # The pipeline's own way with a prompt, so that a caption is trained as it is sampled.
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder.to(spec.device),
        vae=None,
        transformer=None,
        scheduler=None,
    )
    for text in tqdm(texts, desc="texts", unit="text"):
        with torch.no_grad():
            embedding, _ = pipe.encode_prompt(
                text, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
            )
        tokens = tokenizer(
            [prompt_clean(text)], max_length=TEXT_TOKENS, padding="max_length", return_tensors="pt"
        )
        true = embedding[0, : int(tokens.attention_mask.sum())]
        where = f"the text {shorten(text, 40)!r}"
        _refuse_broken(spec, true, where, "data.text_encoder", spec.text_encoder)
        _save(spec, text_file(spec, text), {TEXT: true}, {"text": text}, where, word)


def _encode_pieces(spec: CacheSpec, missing: Mapping[Path, Piece], word: str) -> None:
    vae = load_vae(spec.vae, dtype=spec.dtype).to(spec.device)
    for file, piece in tqdm(missing.items(), desc="latents", unit="clip"):
        row = piece.examined.row
        frames = read_frames(
            row.video,
            fps=spec.fps,
            width=spec.width,
            height=spec.height,
            start=piece.start / spec.fps,
            frames=piece.frames,
            excerpt=row.excerpt,
        )
        try:
            latent = encode_frames(vae, map(torch.from_numpy, frames), piece.frames)
        except VideoReadError as error:
            raise CacheError(f"line {row.line}: {error} What was encoded so far is kept.") from None
        finally:
            frames.close()
        _refuse_broken(spec, latent, piece.source, "data.vae", spec.vae)
        about = {"video": str(row.video), "start": piece.start, "frames": piece.frames}
        where = f"line {row.line}"
        _save(spec, file, {LATENT: latent[0]}, {_ABOUT: json.dumps(about)}, where, word)


def _refuse_broken(spec: CacheSpec, made: Tensor, where: str, name: str, model: Path) -> None:
    """What goes in is pictures and words, so it is the model that is wrong."""
    count = int((~torch.isfinite(made)).sum())
    if count:
        raise CacheError(
            f"{where}: of {made.numel()} values that {name} makes of it, {count} are not a number "
            f"or infinite. The file is sound, so {model} is damaged, or does not compute in "
            f"{str(spec.dtype).removeprefix('torch.')} (data.dtype); use another file of this "
            "model. What was encoded so far is kept."
        )


def _save(
    spec: CacheSpec,
    path: Path,
    tensors: Mapping[str, Tensor],
    about: dict[str, str],
    where: str,
    word: str,
) -> None:
    held = {name: tensor.to("cpu", spec.dtype).contiguous() for name, tensor in tensors.items()}
    try:
        with written_whole(path, word) as partial:
            save_file(held, partial, about)
    except (OSError, SafetensorError) as error:
        raise CacheError(
            f"{where}: {spec.folder} cannot be written ({error}); make room and start again, what "
            "was encoded so far is kept."
        ) from None


def _check_size(spec: CacheSpec) -> None:
    multiple = vae_settings(spec.vae).get("scale_factor_spatial", SPATIAL_STRIDE) * _PATCH
    for name in ("width", "height"):
        check_multiple(name, getattr(spec, name), multiple)


def _check_room(spec: CacheSpec, missing: Iterable[Piece], texts: Iterable[str]) -> None:
    config = vae_settings(spec.vae)
    scale = config.get("scale_factor_spatial", SPATIAL_STRIDE)
    values = config.get("z_dim", CHANNELS) * (spec.width // scale) * (spec.height // scale)
    needed = sum(latent_frames(piece.frames) for piece in missing) * values
    # A token is about four letters of English.
    needed += sum(len(text.encode()) // 4 + 2 for text in texts) * _TEXT_WIDTH
    needed *= spec.dtype.itemsize
    fix = "make room, or set data.cache to another disk"
    require_space(spec.folder, needed, "what the cache lacks", fix)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
