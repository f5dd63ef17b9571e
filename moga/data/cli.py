"""From a folder of films to multi-shot training clips: `python -m moga.data --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import sentence

if TYPE_CHECKING:
    from .pipeline.engine import Engine, Summary
    from .pipeline.settings import Settings
    from .pipeline.stages import Stage
    from .pipeline.store import Store

_TOLD = 20  # films that were dropped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; a bad request is one sentence and 2, films on
    which a stage broke are 1."""
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:
        if (words := sentence(error, "data")) is None:
            raise
        print(f"moga.data: {words}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moga.data: stopped; start again to go on from here.", file=sys.stderr)
        return 130


def _main(arguments: Sequence[str]) -> int:
    plain, words = _apart(arguments)
    options = _parser().parse_args(plain)
    from .pipeline.engine import Engine
    from .pipeline.stages import STAGES, named
    from .pipeline.store import opened

    if options.jobs is not None and options.jobs < 1:
        raise _refused(f"--jobs is {options.jobs}; give 1 or more.")
    stages = STAGES if options.command == "build" else (named(options.command),)
    looks = options.command in ("build", "probe")
    if looks != bool(options.films):
        fix = "name films or folders" if looks else "leave films out: they are known from probe"
        raise _refused(f"{options.command}: {fix}.")
    settings = _settings(options, words)
    redo = options.redo
    if redo is not None and options.command not in ("build", redo):
        raise _refused(f"--redo is {redo}; give it to build, or to {redo} itself.")
    for stage in stages:
        if stage.check is not None:
            stage.check(settings)
    with opened(options.out.absolute(), settings, redo) as store:
        return _run(stages, store, Engine(options.jobs, options.ray), options)


def _run(stages: Sequence[Stage], store: Store, engine: Engine, options: Any) -> int:
    from .pipeline.engine import require_before
    from .pipeline.sources import find_sources

    if options.films:
        found = find_sources(options.films, options.out)
        gone = store.list_sources(found.sources)
        if gone:
            print(f"{gone} films of before are not among these and leave the dataset; name "
                  "all folders to keep them.")  # fmt: skip
        if found.passed_over:
            print(f"{found.passed_over} files beside the films were passed over.")
    else:
        require_before(stages[0], store)
    summary = engine.run(stages, store)
    print(_told(summary, store))
    for _, trace in summary.failed[:3]:
        print(trace, file=sys.stderr)
    return 1 if summary.failed else 0


def _told(summary: Summary, store: Store) -> str:
    from .pipeline.rows import TRAIN, VALIDATION
    from .pipeline.sources import printable

    films = [film for film in store.films() if film.source.kept]
    shots = [shot for film in films for shot in film.shots]
    kept = sum(shot.kept for shot in shots)
    ran = ", ".join(f"{name} on {count}" for name, count in summary.ran.items())
    lines = [f"Ran {ran}." if ran else "Nothing was left to run."]
    lines += [f"Dropped {printable(name)}: {why}" for name, why in summary.dropped[:_TOLD]]
    if len(summary.dropped) > _TOLD:
        lines.append(f"... and {len(summary.dropped) - _TOLD} more films.")
    lines += [
        f"Failed on {printable(name)}; start again to try it again." for name, _ in summary.failed
    ]
    if films:
        lines.append(f"{len(films)} films are kept, with {kept} of {len(shots)} shots.")
    if count := sum(len(film.samples) for film in films):
        lines.append(f"They make {count} samples; {store.folder / 'report.html'} shows them.")
        if (store.folder / TRAIN).exists() and not (store.folder / VALIDATION).exists():
            lines.append("All are to train on, as one film leaves none to validate on: leave "
                         "data.validation_rows out.")  # fmt: skip
    return "\n".join(lines)


def _settings(options: Any, words: Sequence[str]) -> Settings:
    """Of the file that is named, or else those the dataset was made with."""
    from ..toml_settings import settled
    from .pipeline.settings import Settings, read_settings
    from .pipeline.store import known_settings

    if options.config is None:
        return settled(Settings, known_settings(options.out), words)
    return read_settings(options.config, words)


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments, and the words that are settings: --section.key value."""
    plain, words, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and "." in word.partition("=")[0]:
            words.append(word)
            if "=" not in word and rest:
                words.append(rest.pop(0))
        else:
            plain.append(word)
    return plain, words


def _refused(words: str) -> Exception:
    from ..toml_settings import SettingsError

    return SettingsError(words)


class _Help(argparse.Action):
    """Help that lists the settings, for which they have to be loaded."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ..toml_settings import described
        from .pipeline.settings import Settings

        lines = [line for line in described(Settings) if not line.startswith("  sources.0.")]
        parser.print_help()
        print('\nsettings (sections of CONFIG.toml; [[sources]] with match = "glob" has others for')
        print("some of the films, in probe, split, score, text and crop):")
        print("\n".join(lines))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    from .pipeline.stages import STAGES

    listed = "\n".join(f"  {stage.name:10}{stage.what}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="python -m moga.data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Makes a data set for python -m moga.train out of films. It may be stopped at "
        "any point\nand started again: what is done is kept and not done again.",
        epilog=f"commands:\n  {'build':10}all of these, one after another\n{listed}",
        usage="%(prog)s [-h] COMMAND [IN ...] --out DATASET [--config CONFIG.toml] [--jobs N] "
        "[--ray ADDRESS] [--redo STAGE] [--section.key value ...]",
        add_help=False,
    )
    names = [stage.name for stage in STAGES]
    add = parser.add_argument
    add("-h", "--help", action=_Help, nargs=0, help="this, and all settings")
    add("command", choices=["build", *names], metavar="COMMAND")
    add("films", nargs="*", type=Path, metavar="IN", help="films and folders of them; links count")
    add("--out", type=Path, required=True, metavar="DATASET", help="a folder")
    add("--config", type=Path, metavar="CONFIG.toml", help="without: as DATASET was made")
    add("--jobs", type=int, metavar="N", help="films at a time; without: one for each core")
    add("--ray", metavar="ADDRESS", help="by Ray Data: local, or the address of a cluster")
    add("--redo", choices=names, metavar="STAGE", help="make this stage and those after it again")
    return parser
