"""VAE latents and text embeddings on disk, computed once; the training reads nothing else.

A long video is cut into pieces of the length that a stage trains on, each encoded by itself, a few
frames at a time. Every tensor has a file of its own, named by a hash of all that it depends on; a
cache that was cut off goes on where it was. Where shots begin and what they say is not in the files
of latents but in the index, so that a caption can be mended without encoding the video again.

Letters: C latent channels, t, h, w latent grid, K text tokens.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..hosts.diffusers import load_text_encoder, load_vae
from ..hosts.diffusers.text_encoder import TEXT_TOKENS, check_lengths, load_tokenizer
from ..hosts.diffusers.vae import encode_frames, open_vae
from ..hosts.diffusers.vae_names import vae_config
from ..shots import TEMPORAL_STRIDE
from ..shotscript import shorten
from .frames import VideoReadError, read_frames
from .rows import Examined, latent_count, nearest_latent

SHORTEST = 5  # latent frames of a video's last piece, unless all pieces are shorter
_LATENT, _TEXT, _ABOUT = "latent", "embedding", "moga_clip"
_SAMPLES, _SAMPLE = 64, 1 << 16  # how often, and how many bytes of a model file are looked at
_TEXT_WIDTH = 4096  # of UMT5-XXL, the only one that Wan has
_PATCH = 2  # latent pixels of a token, along height and width
_FIX = "run python -m moga.train with --cache-only, which adds what is missing"


class CacheError(RuntimeError):
    """A cache that cannot be written or read; the message says what to do."""


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds.

    width, height: pixels. fps: frames per second. lengths: of the pieces, in seconds.
    dtype: of the models and of what they give. device: where the models compute.
    Raises CacheError for values that no cache can have.
    """

    folder: Path
    vae: Path
    text_encoder: Path
    width: int
    height: int
    fps: float
    lengths: tuple[float, ...]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise CacheError(f"fps is {self.fps}; choose a rate above 0 and up to 1000.")
        for length in self.lengths:
            if not (math.isfinite(length) and length > 0):
                raise CacheError(f"a length is {length}; give seconds above 0.")
        for name in ("width", "height"):
            _check_multiple(name, getattr(self, name), 16)

    @cached_property
    def vae_key(self) -> str:
        return _model_key(self.vae, "vae")

    @cached_property
    def text_key(self) -> str:
        return _model_key(self.text_encoder, "text_encoder", "tokenizer")

    @property
    def index(self) -> Path:
        """The list of what was cached last with these settings."""
        key = _hash(*_latent_settings(self), self.lengths, self.text_key)
        return self.folder / f"index-{key}.jsonl"


@dataclass(frozen=True)
class Piece:
    """A run of a video's frames with its shots. cuts: video frames from its own beginning."""

    examined: Examined
    start: int
    frames: int
    cuts: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """First latent frame of each shot."""
        return tuple(map(nearest_latent, self.cuts))

    @property
    def source(self) -> str:
        seconds = self.start / self.examined.fps
        return f"{self.examined.row.video.name}, line {self.examined.row.line}, {seconds:.1f} s"


@dataclass(frozen=True)
class CachedClip:
    """A piece in the cache.

    shape: of its latent, (C, t, h, w). texts: files, one per shot. starts: first latent frame of
    each shot. source: what messages call it.
    """

    file: Path
    texts: tuple[Path, ...]
    starts: tuple[int, ...]
    shape: tuple[int, ...]
    source: str


def pieces(examined: Examined, seconds: float) -> list[Piece]:
    """A video cut into pieces of 4n + 1 frames, at most `seconds` long, one after the other.

    A shorter last one is kept if it has SHORTEST latent frames, or is the only one.
    """
    longest = _on_grid(max(1, round(seconds * examined.fps)))
    found = []
    for start in range(0, examined.frames, longest):
        frames = _on_grid(min(longest, examined.frames - start))
        if start == 0 or latent_count(frames) >= min(SHORTEST, latent_count(longest)):
            found.append(_piece(examined, start, frames))
    return found


def make_cache(
    spec: CacheSpec, rows: Sequence[Examined], *, extra_texts: Sequence[str] = ()
) -> None:
    """Write everything that is missing: pieces of all lengths, their texts, and the empty text.

    extra_texts: further ones to encode. Raises CacheError, CheckpointError for files that are no
    models of Wan, ShotMismatchError for a text of more than 512 tokens. What was written before an
    error or an interruption stays and is not computed again.
    """
    _check_size(spec)
    wanted = [p for row in rows for length in spec.lengths for p in pieces(row, length)]
    texts = dict.fromkeys(["", *extra_texts, *(text for piece in wanted for text in piece.texts)])
    missing_texts = [text for text in texts if not text_file(spec, text).is_file()]
    by_file = {_latent_file(spec, piece): piece for piece in wanted}
    missing = {file: piece for file, piece in by_file.items() if not file.is_file()}
    if missing_texts:
        # Before the encoder is read, which takes its time.
        check_lengths(load_tokenizer(spec.text_encoder), list(map(prompt_clean, missing_texts)))
    _check_room(spec, missing.values(), missing_texts)
    try:
        for folder in ("latents", "texts"):
            (spec.folder / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"{spec.folder} cannot be made ({error.strerror}); choose another folder."
        ) from None
    if missing_texts:
        _encode_texts(spec, missing_texts)
        _free()
    if missing:
        _encode_pieces(spec, missing)
        _free()
    _write_index(spec, rows)


def read_cache(
    spec: CacheSpec, rows: Sequence[Examined] | None, seconds: float
) -> list[CachedClip]:
    """The pieces of one length, in the order of the rows.

    rows: None takes those that `make_cache` was last called with for this spec; their videos need
        not be there any more, but if they are, they must not have changed.
    Raises CacheError for what is missing, damaged or older than its video.
    """
    if rows is None:
        listed = list(_read_index(spec, seconds))
    else:
        listed = [
            (
                _latent_file(spec, piece),
                tuple(text_file(spec, text) for text in piece.texts),
                piece.starts,
                piece.source,
            )
            for row in rows
            for piece in pieces(row, seconds)
        ]
    whole: set[Path] = set()
    clips = []
    for file, texts, starts, source in listed:
        for path in (file, *texts):
            if path not in whole:
                _check_whole(spec, path, source)
                whole.add(path)
        with safe_open(file, "pt") as opened:
            shape = tuple(opened.get_slice(_LATENT).get_shape())
            about = json.loads(opened.metadata()[_ABOUT])
        if rows is None:
            _check_unchanged(about, source)
        clips.append(CachedClip(file, texts, starts, shape, source))
    return clips


def load_latent(clip: CachedClip) -> Tensor:
    """(C, t, h, w) float32, normalised as the transformer sees it."""
    return load_file(clip.file)[_LATENT].float()


def load_text(path: Path) -> Tensor:
    """(K, text width) float32, without padding."""
    return load_file(path)[_TEXT].float()


def text_length(path: Path) -> int:
    """Tokens of an embedding, K, without reading it."""
    with safe_open(path, "pt") as opened:
        return opened.get_slice(_TEXT).get_shape()[0]


def text_file(spec: CacheSpec, text: str) -> Path:
    """Where the embedding of a text lies."""
    return spec.folder / "texts" / f"{_hash(text, spec.text_key, str(spec.dtype))}.safetensors"


def _on_grid(frames: int) -> int:
    """The most frames up to so many that the VAE takes, 4n + 1."""
    return TEMPORAL_STRIDE * (latent_count(frames) - 1) + 1


def _piece(examined: Examined, start: int, frames: int) -> Piece:
    # By latent frame. Of shots that begin in the same one the last stays: of all those from before
    # the piece, the one that goes on into it.
    shots: dict[int, tuple[int, str]] = {}
    for cut, text in zip(examined.cuts, examined.row.texts, strict=True):
        own = max(0, cut - start)
        if nearest_latent(own) < latent_count(frames):
            shots[nearest_latent(own)] = (own, text)
    kept = [shots[at] for at in sorted(shots)]
    return Piece(examined, start, frames, tuple(c for c, _ in kept), tuple(t for _, t in kept))


def _encode_texts(spec: CacheSpec, texts: Sequence[str]) -> None:
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
        _save(spec, text_file(spec, text), {_TEXT: true}, {"text": text}, where)


def _encode_pieces(spec: CacheSpec, missing: Mapping[Path, Piece]) -> None:
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
        )
        try:
            latent = encode_frames(vae, map(torch.from_numpy, frames), piece.frames)
        except VideoReadError as error:
            raise CacheError(f"line {row.line}: {error} What was encoded so far is kept.") from None
        finally:
            frames.close()
        about = {
            "video": str(row.video.resolve()),
            "identity": _identity(piece),
            "source": piece.source,
            "start": piece.start,
            "frames": piece.frames,
        }
        _save(spec, file, {_LATENT: latent[0]}, {_ABOUT: json.dumps(about)}, f"line {row.line}")


def _save(
    spec: CacheSpec, path: Path, tensors: Mapping[str, Tensor], about: dict[str, str], where: str
) -> None:
    held = {name: tensor.to("cpu", spec.dtype).contiguous() for name, tensor in tensors.items()}
    partial = _partial(path)
    try:
        save_file(held, partial, about)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CacheError(
            f"{where}: {spec.folder} cannot be written ({error}); make room and start again, what "
            "was encoded so far is kept."
        ) from None


def _partial(path: Path) -> Path:
    """Where a file is written before it gets its name: several trainings may share a cache."""
    return path.with_name(f".{path.stem}-{os.getpid()}.part")


def _write_index(spec: CacheSpec, rows: Sequence[Examined]) -> None:
    lines = []
    for seconds in dict.fromkeys(spec.lengths):
        for clip in read_cache(spec, rows, seconds):
            entry = {
                "seconds": seconds,
                "source": clip.source,
                "latent": clip.file.name,
                "starts": clip.starts,
                "texts": [path.name for path in clip.texts],
            }
            lines.append(json.dumps(entry) + "\n")
    partial = _partial(spec.index)
    try:
        partial.write_text("".join(lines), encoding="utf-8")
        os.replace(partial, spec.index)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CacheError(
            f"{spec.folder} cannot be written ({error.strerror}); make room and start again, what "
            "was encoded so far is kept."
        ) from None


def _read_index(
    spec: CacheSpec, seconds: float
) -> Iterator[tuple[Path, tuple[Path, ...], tuple[int, ...], str]]:
    if seconds not in spec.lengths or not spec.index.is_file():
        raise CacheError(
            f"{spec.folder} has no finished cache of {seconds:g} s clips with these settings and "
            f"models; {_FIX}."
        )
    for entry in map(json.loads, spec.index.read_text(encoding="utf-8").splitlines()):
        if entry["seconds"] == seconds:
            texts = tuple(spec.folder / "texts" / name for name in entry["texts"])
            latent = spec.folder / "latents" / entry["latent"]
            yield latent, texts, tuple(entry["starts"]), entry["source"]


def _check_whole(spec: CacheSpec, path: Path, source: str) -> None:
    if not path.is_file():
        raise CacheError(
            f"{spec.folder} lacks {source}, or what was cached of it is stale, because the video, "
            f"the caption or a setting has changed since; {_FIX}."
        )
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError:
        raise CacheError(f"{path} of {source} is damaged; delete it, then {_FIX}.") from None


def _check_unchanged(about: Mapping[str, Any], source: str) -> None:
    """Raise CacheError if a piece was made from other contents than its video has now."""
    video = Path(about["video"])
    if video.is_file() and _file_identity(video) != about["identity"]:
        raise CacheError(f"{source} is stale, its video has changed since it was cached; {_FIX}.")


def _check_size(spec: CacheSpec) -> None:
    multiple = vae_settings(spec.vae).get("scale_factor_spatial", 8) * _PATCH
    for name in ("width", "height"):
        _check_multiple(name, getattr(spec, name), multiple)


def _check_multiple(name: str, value: int, multiple: int) -> None:
    if value < 1 or value % multiple:
        near = max(multiple, round(value / multiple) * multiple)
        raise CacheError(f"{name} is {value}; give a multiple of {multiple}, such as {near}.")


def _check_room(spec: CacheSpec, missing: Iterable[Piece], texts: Iterable[str]) -> None:
    config = vae_settings(spec.vae)
    scale = config.get("scale_factor_spatial", 8)
    values = config.get("z_dim", 16) * (spec.width // scale) * (spec.height // scale)
    needed = sum(latent_count(piece.frames) for piece in missing) * values
    # A token is about four letters of English.
    needed += sum(len(text.encode()) // 4 + 2 for text in texts) * _TEXT_WIDTH
    needed *= spec.dtype.itemsize
    folder = spec.folder.absolute()
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CacheError(
            f"the disk of {spec.folder} has {free / 1e9:.1f} GB free and the cache takes about "
            f"{needed / 1e9:.1f} GB more; make room, or set data.cache to another disk."
        )


def vae_settings(path: Path) -> Mapping[str, Any]:
    """Settings of the VAE; those that it leaves out are diffusers' defaults."""
    if not path.is_dir():
        return vae_config(open_vae(path).shapes)
    for folder in (path, path / "vae"):
        if (folder / "config.json").is_file():
            return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    raise CacheError(f"{path} has no VAE; give a diffusers folder or a .safetensors file.")


def _latent_file(spec: CacheSpec, piece: Piece) -> Path:
    name = _hash(
        *(str(piece.examined.row.video.resolve()), _identity(piece), piece.start, piece.frames),
        *_latent_settings(spec),
    )
    return spec.folder / "latents" / f"{name}.safetensors"


def _latent_settings(spec: CacheSpec) -> tuple[Any, ...]:
    return spec.width, spec.height, spec.fps, spec.vae_key, str(spec.dtype)


def _identity(piece: Piece) -> list[int]:
    row = piece.examined.row
    try:
        return _file_identity(row.video)
    except OSError as error:
        raise CacheError(
            f"line {row.line}: {row.video} cannot be read ({error.strerror}); check the path."
        ) from None


def _file_identity(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _model_key(path: Path, *parts: str) -> str:
    """Tells a model from others by its size and samples of its bytes, wherever it lies.

    A file, or the files of a folder: of those of its `parts` that it has, else of all of it. A file
    of up to 4 MiB is read whole.
    """
    files = [path]
    if path.is_dir():
        folders = [path / part for part in parts if (path / part).is_dir()] or [path]
        files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if file != path else ""
        with file.open("rb") as opened:
            digest.update(f"{name} {size}\n".encode())
            for at in range(0, size, max(_SAMPLE, size // _SAMPLES)):
                opened.seek(at)
                digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
