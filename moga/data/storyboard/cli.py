"""`python -m moga.data.storyboard`: many films, and the rows that the trainer reads."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ...files import written_whole
from . import film
from .film import NAMED, Storyboard, storyboard, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Write many storyboards with the rows that the trainer reads."""
    parser = argparse.ArgumentParser(
        prog="python -m moga.data.storyboard", description=film.__doc__.partition("\n\n")[2]
    )
    parser.add_argument("out", type=Path, help="folder for clips/ and rows.jsonl")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next ones follow")
    parser.add_argument("--shots", type=int, nargs="+", help="how many, by turns (default: 2 to 6)")
    parser.add_argument("--frames", type=int, nargs="+", default=[93], help="4n + 1, by turns")
    parser.add_argument("--size", default="160x96")
    parser.add_argument("--fps", type=float, default=16)
    parser.add_argument("--even", action="store_true", help="shots of equal length")
    parser.add_argument("--named", choices=NAMED, default="full")
    parser.add_argument("--held-out", action="store_true", help="characters kept from training")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        stories = [_asked(options, number) for number in range(options.count)]
        rows = _begin(options)
    except ValueError as error:
        print(f"moga.data.storyboard: {error}", file=sys.stderr)
        return 2
    films = {f"clips/{number:06d}.mp4": story for number, story in enumerate(stories)}
    missing = {
        options.out / name: s for name, s in films.items() if not (options.out / name).exists()
    }
    with ProcessPoolExecutor(options.workers) as pool:
        for _ in pool.map(write, missing.keys(), missing.values(), chunksize=8):
            pass
    lines = [json.dumps(story.row(name)) for name, story in films.items()]
    with written_whole(rows) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {rows} and {options.count} clips")
    return 0


def _begin(options: argparse.Namespace) -> Path:
    """Make the folder, or take up one that was cut off. Returns where its rows will be.

    Raises ValueError for a folder that is finished, or begun with other settings.
    """
    rows, clips, about = (options.out / name for name in ("rows.jsonl", "clips", "settings.json"))
    if rows.exists():
        raise ValueError(f"{rows} exists already; give another folder.")
    loose = ("out", "count", "workers")  # a clip is the same whatever they are
    asked = json.dumps({name: v for name, v in vars(options).items() if name not in loose})
    clips.mkdir(parents=True, exist_ok=True)
    halves = set(clips.glob("*.partial.mp4"))
    if set(clips.iterdir()) - halves and not (about.exists() and about.read_text() == asked):
        raise ValueError(f"{clips} holds clips of other settings; delete it, or give a new folder.")
    for half in halves:
        half.unlink()
    about.write_text(asked)
    return rows


def _asked(options: argparse.Namespace, number: int) -> Storyboard:
    width, _, height = options.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"--size is {options.size!r}; give width and height, such as 160x96.")
    frames = options.frames[number % len(options.frames)]
    turn = number // len(options.frames)
    return storyboard(
        options.seed + number,
        shots=options.shots[turn % len(options.shots)] if options.shots else None,
        frames=frames,
        size=(int(width), int(height)),
        fps=options.fps,
        even=options.even,
        named=options.named,
        held_out=options.held_out,
    )
