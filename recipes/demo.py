"""`python recipes/demo.py`: from a script to a film, with a model small enough for any machine.

The model is Wan's architecture in small, with MoGA, trained by `moga.train` on the procedural films
of `moga.data.storyboard`. Its recipe is in recipes/demo_model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

RECIPES = Path(__file__).parent
SCRIPT = RECIPES / "demo.txt"
MODEL = RECIPES / "demo_model"
# As it was trained: other sizes and rates work, but look worse.
SETTINGS = {"--size": "160x96", "--fps": "16", "--shift": "3"}
FILM, SHEET, LATENTS = "demo.mp4", "demo.png", "demo.latents.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the film. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python recipes/demo.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--script", type=Path, default=SCRIPT, help="default: recipes/demo.txt")
    parser.add_argument("--steps", type=int, default=20, help="default: 20")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args(arguments)
    from moga.generate import main as generate

    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for old in (FILM, LATENTS):
            (options.out / old).unlink(missing_ok=True)
    except OSError as error:
        print(
            f"demo: --out is {options.out}, which cannot be written ({error.strerror}); "
            "choose another folder.",
            file=sys.stderr,
        )
        return 2
    given = {
        "--script": options.script,
        "--model": MODEL / "model.safetensors",
        "--vae": MODEL / "vae.safetensors",
        "--text-encoder": MODEL / "text_encoder.safetensors",
        "--out": options.out / FILM,
        "--contact-sheet": options.out / SHEET,
        "--steps": options.steps,
        "--seed": options.seed,
        "--cfg": "3",
        "--dtype": "fp32",
        **SETTINGS,
    }
    return generate([str(part) for pair in given.items() for part in pair])


if __name__ == "__main__":
    sys.exit(main())
