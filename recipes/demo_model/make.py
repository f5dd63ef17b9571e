"""Makes the demo's three files from nothing: text encoder, VAE and transformer.

    python recipes/demo_model/make.py --work work --device cuda

Run in the repository with `pip install -e .[train]`. README.md beside this file says what it took.
Started again, it goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = ("text_encoder.safetensors", "vae.safetensors", "model.safetensors")


def main() -> None:
    options = read_options()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "train.toml", work / "train.toml")
    clips = ["--frames", "93", "61", "--shots", "3", "2", "4", "--even"]
    storyboards(work / "clips", str(options.clips), *clips)
    storyboards(work / "held_out", "32", *clips, "--held-out", "--seed", "1000000")
    make(work / FILES[0], HERE / "text_encoder.py")
    minutes = ["--minutes", options.vae_minutes, "--device", options.device]
    make(work / FILES[1], HERE / "train_vae.py", *minutes, "--sheet", work / "vae.png")
    train = ["-m", "moga.train", work / "train.toml", *options.words]
    run(*train, "--cache-only", "--jobs", options.jobs)
    run(*train)
    shutil.copyfile(work / "training" / FILES[2], work / FILES[2])
    if options.install:
        for name in FILES:
            shutil.copyfile(work / name, HERE / name)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for everything")
    parser.add_argument("--device", default="cuda", help="that the VAE is trained on")
    parser.add_argument("--clips", type=int, default=2400, help="storyboards to train on")
    parser.add_argument("--vae-minutes", type=float, default=4)
    parser.add_argument("--jobs", type=int, default=6, help="processes that encode clips")
    parser.add_argument("--install", action="store_true", help="put the files beside this script")
    options, options.words = parser.parse_known_args()  # the rest goes to moga.train
    return options


def storyboards(folder: Path, count: str, *words: str) -> None:
    if not (folder / "rows.jsonl").exists():
        run("-m", "moga.data.storyboard", folder, "--count", count, *words)


def make(path: Path, script: Path, *words: object) -> None:
    """Let a script write a file, unless it is there. What is not finished does not get its name."""
    if not path.exists():
        partial = path.with_name(f".{path.name}.part")
        run(script, partial, *words)
        partial.replace(path)


def run(*words: object) -> None:
    print("+", *words, flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if subprocess.run([sys.executable, *map(str, words)], env=environment).returncode:
        sys.exit(f"make.py: this failed: {' '.join(map(str, words))}")


if __name__ == "__main__":
    main()
