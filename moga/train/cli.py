"""The trainer, where MoGA checkpoints come from: `python -m moga.train --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; a bad request is one sentence and 2."""
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:
        if (words := sentence(error)) is None:
            raise
        print(f"moga.train: {words}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moga.train: stopped; start again to go on from the last checkpoint.",
              file=sys.stderr)  # fmt: skip
        return 130


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m moga.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a Wan model with Mixture-of-Groups Attention. For several GPUs: "
        "accelerate launch -m moga.train ...",
        epilog=_settings_help(),
        usage="%(prog)s [-h] [--cache-only] [--jobs N] [--check] CONFIG.toml "
        "[--section.key value ...]",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--cache-only", action="store_true", help="make the cache, and stop")
    parser.add_argument(
        "--check", action="store_true", help="check settings, decode every clip once, and stop"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that make the cache, with --cache-only"
    )
    options, words = parser.parse_known_args(arguments)
    from .preview import check_only
    from .read_settings import SettingsError, read_settings
    from .run import fill_cache, run

    settings = read_settings(options.config, words)
    if options.jobs != 1 and not (options.cache_only and options.jobs > 0):
        raise SettingsError(
            f"--jobs is {options.jobs}; give 1 or more, and more than 1 with --cache-only alone."
        )
    if options.check:
        print(check_only(settings))
    elif options.cache_only:
        fill_cache(settings, options.jobs)
    else:
        print(f"wrote {run(settings)}")
    return 0


def _settings_help() -> str:
    from ..toml_settings import described
    from .settings import Settings

    lines = ["settings (sections of CONFIG.toml; stages.0 is the first stage):"]
    return "\n".join([*lines, *described(Settings)])
