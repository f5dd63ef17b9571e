"""A latent to a video file in ComfyUI's output folder, with all that belongs to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy.cli_args import args
from PIL import Image

from ...files import require_space
from ...shots import ShotList
from ...video.audio import Audio
from ...video.background import Pipeline
from ...video.chapters import Chapter
from ...video.formats import Encoder, choose_format
from ...video.per_shot import ShotFiles, chapters_of, seconds
from ...video.writer import VideoWriter, frame_rate
from ...wan import WIDE_CHANNELS, WIDE_FPS
from .fields import WidgetValues, fill_widgets
from .films import FILMS, digest
from .latent import kept_latent
from .output import OutputName, prefix_problem, reserve_name
from .progress import PICTURE_SIZE, running_node, tell
from .vae import Decode, decode_frames

SPARE = 64 * 2**20  # bytes that a disk should have left
_MAKE_ROOM = "free some space and queue again. What was sampled is still in ComfyUI's cache"


@dataclass(frozen=True)
class VideoSettings:
    """How a video is saved. `tags` are its metadata; `shots` become chapters.

    With `file_per_shot` each of them is also saved by itself. `prefix` has no fields left but
    dates and those that ComfyUI fills in.
    """

    prefix: str
    fps: float
    encoder: Encoder
    audio: Audio | None = None
    shots: ShotList | None = None
    file_per_shot: bool = True
    keep_latent: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedVideo:
    """Where a video went: the file (or folder of pictures), those of its shots, a picture of it.

    `latent` is its latent's file, if that was kept; `line` says it all in words.
    """

    path: Path
    shots: tuple[Path, ...]
    latent: Path | None
    subfolder: str
    still: Image.Image
    line: str


def read_settings(
    hidden: Any,
    fps: float,
    filename_prefix: str,
    quality: int,
    format: str = "h264",
    save_workflow: bool = True,
    keep_latent: bool = False,
    file_per_shot: bool = True,
    audio: Mapping[str, Any] | None = None,
    shots: ShotList | None = None,
) -> VideoSettings:
    """What the node's inputs ask for. Raises ValueError for what can't be, naming the input."""
    frame_rate(fps)
    widgets = WidgetValues(hidden.prompt, hidden.extra_pnginfo)
    prefix = fill_widgets(filename_prefix, widgets)
    if problem := prefix_problem(prefix):
        raise ValueError(problem)
    return VideoSettings(
        prefix=prefix,
        fps=fps,
        encoder=choose_format(format, quality),
        audio=read_audio(audio),
        shots=shots,
        file_per_shot=file_per_shot,
        keep_latent=keep_latent,
        tags=workflow_tags(hidden.prompt, hidden.extra_pnginfo) if save_workflow else {},
    )


def remarks(vae, settings: VideoSettings) -> list[str]:
    """What can be done as it was asked for, and was hardly meant."""
    found, fps, rate = [], settings.fps, frame_rate(settings.fps)
    if settings.shots is not None and frame_rate(timed := float(settings.shots.fps)) != rate:
        found.append(
            f"fps is {fps:g} and the shots were timed at {timed:g}, so the video plays "
            f"{fps / timed:.3g} times as fast."
        )
    if getattr(vae, "latent_channels", None) == WIDE_CHANNELS and rate != WIDE_FPS:
        found.append(
            f"fps is {fps:g}, and vae is that of the 5B model, which was made for {WIDE_FPS}."
        )
    return found


def save_video(vae, decode: Decode, settings: VideoSettings) -> SavedVideo:
    """Decode to a video file, holding a few frames at a time.

    What the running node saved last is returned as it is when that is the same film. Otherwise the
    latent is saved first, and removed when all is done. Raises OSError when there is no place for
    the video; then, with the place of the latent, VideoError for shots of another length and what
    decoding and encoding raise.
    """
    node, said = running_node(), remarks(vae, settings)
    for remark in said:
        logging.warning(remark)
    made_of = node and _made_of(decode, settings)
    if saved := node and FILMS.find(node, made_of, vae):
        line = f"{saved.path.name} is the same film; nothing was decoded again."
        logging.info("%s (%s)", line, saved.path)
    else:
        size = f"{decode.frames} frames of {decode.width}x{decode.height}"
        tell(" ".join([f"Decodes {size}.", *said]))
        saved = _save(vae, decode, settings)
        line = saved.line
    saved = replace(saved, line=" ".join([line, *said]))
    tell(saved.line)
    if node:
        files = filter(None, (saved.path, *saved.shots, saved.latent))
        FILMS.keep(node, saved, made_of, vae, files)
    return saved


def _made_of(decode: Decode, settings: VideoSettings) -> tuple:
    """All that makes a film but the VAE. Its metadata is left out, as it changes with every Run."""
    audio = settings.audio
    sound = audio and (audio.rate, digest(torch.from_numpy(audio.samples)))
    asked = replace(settings, audio=None, tags={})
    return digest(decode.latent), decode.tiling, sound, asked, bool(settings.tags)


def _save(vae, decode: Decode, settings: VideoSettings) -> SavedVideo:
    name = reserve_name(settings.prefix, decode.width, decode.height)
    with ExitStack() as unless_saved:
        unless_saved.callback(name.latent.unlink, missing_ok=True)
        require_space(name.folder, _bytes_needed(decode, settings), "the video", _MAKE_ROOM)
        with kept_latent(name.latent, decode.latent, settings.tags, settings.keep_latent):
            unless_saved.pop_all()
            return _write(vae, decode, settings, name)


def _write(vae, decode: Decode, settings: VideoSettings, name: OutputName) -> SavedVideo:
    chapters = _chapters(decode, settings)
    encoder, rate = settings.encoder, frame_rate(settings.fps)
    size = (decode.width, decode.height)
    audio = settings.audio and settings.audio.cut(Fraction(0), seconds(decode.frames, rate))
    common = {"fps": settings.fps, "encoder": encoder, "tags": settings.tags}
    path = name.file(encoder.extension)
    shot_paths = []

    def open_shot(number: int, chapter: Chapter) -> VideoWriter:
        shot_paths.append(name.file(f"shot_{number:02}{encoder.extension}"))
        start, length = seconds(chapter.start, rate), seconds(chapter.frames, rate)
        sound = settings.audio and settings.audio.cut(start, length)
        return VideoWriter(shot_paths[-1], *size, audio=sound, **common)

    single = chapters if settings.file_per_shot else ()
    with (
        VideoWriter(path, *size, audio=audio, chapters=chapters, **common) as video,
        ShotFiles(single, open_shot) as shots,
    ):
        still = Still()

        def write(frames: np.ndarray) -> None:
            video.write(frames)
            if single:
                shots.write(frames)
            still.look(frames)

        def stop() -> None:
            video.kill()
            shots.kill()

        check = comfy.model_management.throw_exception_if_processing_interrupted
        with Pipeline(write, stop=stop, check=check, finish=video.finish) as pipeline:
            # Nodes 2.0 would go on showing the last picture in place of the finished video.
            shown = () if encoder.plays_in_browsers else (still.take,)
            progress = decode_frames(vae, decode, pipeline.put, *shown)
    logging.info("%s: %s", path, progress)
    return SavedVideo(
        path,
        tuple(shot_paths),
        name.latent if settings.keep_latent else None,
        name.subfolder,
        still.take(),
        f"{path.name}: {progress}.",
    )


class Still:
    """A small picture of the last frame that was written."""

    def __init__(self) -> None:
        self._pixels: np.ndarray | None = None

    def look(self, frames: np.ndarray) -> None:
        step = max(1, max(frames.shape[1:3]) // PICTURE_SIZE)
        picture = frames[-1, ::step, ::step]
        if self._pixels is None:
            self._pixels = np.empty_like(picture, order="C")
        self._pixels[:] = picture  # into the same memory: see `pipeline.HostSlot`

    def take(self) -> Image.Image | None:
        """The picture; None before the first frame."""
        return None if self._pixels is None else Image.fromarray(self._pixels)


def workflow_tags(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """What ComfyUI's own nodes save with a file, by which it can be dropped on the canvas.

    `extra` comes with the prompt, keys and all: what isn't the workflow goes into one tag, so
    that no key of a stranger becomes the name of anything. Empty when ComfyUI was started with
    --disable-metadata.
    """
    if args.disable_metadata:
        return {}
    rest = dict(extra) if isinstance(extra, Mapping) else {}
    tags = {"workflow": rest.pop("workflow", None), "extra_pnginfo": rest, "prompt": prompt}
    return {key: json.dumps(value) for key, value in tags.items() if value}


def read_audio(audio: Mapping[str, Any] | None) -> Audio | None:
    """ComfyUI's AUDIO, of a batch the first. Raises ValueError when it holds no sound."""
    if audio is None:
        return None
    waveform = audio["waveform"]
    samples = waveform[0] if waveform.ndim == 3 and len(waveform) else waveform
    return Audio(samples.detach().float().cpu().numpy(), int(audio["sample_rate"]))


def _chapters(decode: Decode, settings: VideoSettings) -> tuple[Chapter, ...]:
    if settings.shots is None:
        return ()
    videos = len(decode.latent)
    frames = decode.frames // videos
    if settings.shots.frames != frames:
        references = (
            "; if the model put reference frames in front (VACE, Animate), cut them off with Trim "
            "Video Latent and its trim_latent first"
        )
        raise ValueError(
            f"shots are {settings.shots.frames} frames and samples decode to {frames}; connect "
            "the shots that samples were made with, or disconnect them"
            f"{references if frames > settings.shots.frames else ''}."
        )
    return chapters_of(settings.shots, videos)


def _bytes_needed(decode: Decode, settings: VideoSettings) -> int:
    """About what the latent and the files will take."""
    pixels = decode.frames * decode.height * decode.width
    copies = 2 if settings.shots is not None and settings.file_per_shot else 1
    sound = 0 if settings.audio is None else settings.audio.samples.nbytes
    video = pixels * settings.encoder.bytes_per_pixel + sound
    return round(decode.latent.nbytes + copies * video) + SPARE
