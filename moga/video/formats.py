"""The video formats: which of ffmpeg's encoders, in which container, with which options.

`FORMATS` is the one list of them; drop-downs, errors and documentation are made from it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from .ffmpeg import find_ffmpeg, hidden_window

TRIAL_SECONDS = 60
# A few samples at a rate that AAC lacks would get lost on the way to another: silence follows them.
AAC = ("-c:a", "aac", "-b:a", "192k", "-af", "apad=whole_dur=0.05,apad=whole_len=64")
# ffmpeg takes the size of FLAC's blocks from the first samples it gets, and none is below 16.
FLAC = ("-c:a", "flac", "-frame_size:a", "4608")


@dataclass(frozen=True)
class Encoder:
    """How frames become a file: one of ffmpeg's encoders in one of its containers.

    `options` and `audio_options` are ffmpeg's own output options. Width and height must be
    multiples of `size_multiple`, which the pixel format needs. `bytes_per_pixel` is about what
    a pixel of ordinary footage takes in the file. Without an `extension` the file is a folder of
    pictures.
    """

    name: str
    container: str
    extension: str
    pixel_format: str
    size_multiple: int
    options: tuple[str, ...]
    audio_options: tuple[str, ...] = AAC
    bytes_per_pixel: float = 0.5

    @property
    def is_folder(self) -> bool:
        return not self.extension

    @property
    def is_rgb(self) -> bool:
        """Whether the file holds the very frames, with no conversion of colours."""
        return not self.pixel_format.startswith("yuv")

    @property
    def plays_in_browsers(self) -> bool:
        return self.extension == ".mp4"


def h264(crf: int = 18) -> Encoder:
    """H.264 in an mp4 that every browser plays. `crf` is 0 to 51: lower is better and larger."""
    return _mp4("h264", crf, "libx264", "-crf", str(crf))


def h265(crf: int = 18) -> Encoder:
    """H.265 in an mp4 tagged as Apple's players want it; `crf` as for H.264."""
    quiet = ("-x265-params", "log-level=error", "-tag:v", "hvc1")
    return _mp4("h265", crf, "libx265", "-crf", str(crf), *quiet)


def av1(crf: int = 18) -> Encoder:
    """AV1 by SVT-AV1 in an mp4. `crf` is on the scale of H.264, stretched to SVT's 0 to 63."""
    return _mp4("av1", crf, "libsvtav1", "-crf", str(round(crf * 63 / 51)), "-preset", "6")


def nvenc(codec: str, crf: int = 18) -> Encoder:
    """The encoder of an NVIDIA card, for `codec` h264, hevc or av1; see `trial`."""
    tag = ("-tag:v", "hvc1") if codec == "hevc" else ()
    rate = ("-preset", "p5", "-rc", "vbr", "-cq", str(crf), "-b:v", "0")
    return _mp4(f"{codec}_nvenc", crf, f"{codec}_nvenc", *rate, *tag)


def prores() -> Encoder:
    """ProRes 422 HQ (10 bit) in a mov, with PCM sound: for editors."""
    return Encoder(
        *("prores", "mov", ".mov", "yuv422p10le"),
        size_multiple=2,
        options=("-c:v", "prores_ks", "-profile:v", "hq", "-vendor", "apl0", *_TAGS),
        audio_options=("-c:a", "pcm_s16le"),
    )


def ffv1() -> Encoder:
    """FFV1 in an mkv: the very frames in about half their size, with FLAC sound."""
    return Encoder(
        *("ffv1", "matroska", ".mkv", "bgr0"),
        size_multiple=1,
        options=("-c:v", "ffv1", "-level", "3", "-slices", "4", "-slicecrc", "1", "-g", "1"),
        audio_options=FLAC,
        bytes_per_pixel=1.5,
    )


def png() -> Encoder:
    """A folder of numbered PNG files: the very frames, with the sound as audio.wav."""
    return Encoder(
        *("png", "image2", "", "rgb24"),
        size_multiple=1,
        options=("-c:v", "png"),
        audio_options=("-c:a", "pcm_s16le"),
        bytes_per_pixel=2.0,
    )


FORMATS: dict[str, Callable[[int], Encoder]] = {
    "h264": h264,
    "h265": h265,
    "av1": av1,
    "prores": lambda crf: prores(),
    "ffv1": lambda crf: ffv1(),
    "png": lambda crf: png(),
    "h264_nvenc": lambda crf: nvenc("h264", crf),
    "hevc_nvenc": lambda crf: nvenc("hevc", crf),
    "av1_nvenc": lambda crf: nvenc("av1", crf),
}


def choose_format(name: str, crf: int = 18) -> Encoder:
    """The encoder of a name in `FORMATS`. Raises ValueError for another name or crf."""
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}; choose one of {', '.join(FORMATS)}.")
    return FORMATS[name](crf)


def trial(encoder: Encoder) -> str | None:
    """Encode one frame to nowhere: None when that works, else why not, in ffmpeg's words."""
    try:
        _encode_one_frame(encoder)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"code {error.returncode}"]
        reason = _missing(encoder) or f"ffmpeg: {said[0]}"
    except subprocess.TimeoutExpired:
        reason = f"ffmpeg: no answer in {TRIAL_SECONDS} seconds"
    except OSError as error:
        reason = f"ffmpeg can't be started: {error}"
    else:
        return None
    other = "another format" if encoder.name == "h264" else "h264"
    return f"{encoder.name} can't encode on this machine ({reason}); try again or choose {other}."


def _missing(encoder: Encoder) -> str | None:
    """What to say if this ffmpeg has no such encoder, of whose options it then complains."""
    codec = encoder.options[encoder.options.index("-c:v") + 1]
    with suppress(OSError, subprocess.SubprocessError):  # then it tells what it can
        if codec not in _output(find_ffmpeg(), "-hide_banner", "-encoders").split():
            return (
                f"this ffmpeg was built without {codec}: update imageio-ffmpeg, or set "
                "IMAGEIO_FFMPEG_EXE to another ffmpeg"
            )
    return None


@cache  # of successes: a card that is busy now may be free at the next try
def _encode_one_frame(encoder: Encoder) -> None:
    _output(
        *(find_ffmpeg(), "-hide_banner", "-nostats", "-loglevel", "error", "-nostdin"),
        *("-f", "lavfi", "-i", "color=size=256x256:rate=16", "-frames:v", "1"),
        *("-pix_fmt", encoder.pixel_format, *encoder.options, "-f", "null", "-"),
    )


def _output(*command: str) -> str:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TRIAL_SECONDS,
        check=True,
        **hidden_window(),
    ).stdout


# Without this flag mp4 and mov drop every tag they have no name of their own for.
_TAGS = ("-movflags", "+faststart+use_metadata_tags")


def _mp4(name: str, crf: int, encoder: str, *options: str) -> Encoder:
    if not 0 <= crf <= 51:
        raise ValueError(f"crf is {crf}; choose a number from 0 (best) to 51.")
    return Encoder(
        *(name, "mp4", ".mp4", "yuv420p"),
        size_multiple=2,
        options=("-c:v", encoder, *options, *_TAGS),
        bytes_per_pixel=0.12 * 2 ** ((18 - crf) / 6),
    )
