"""A real ComfyUI with this pack on a card: the seven cases, each with stock beside it.

    python benchmarks/comfyui.py --comfyui ~/comfy/ComfyUI --device cpu --json tiny.json
    python benchmarks/comfyui.py --comfyui ~/comfy/ComfyUI --cases 1 --sizes 1.3B --frames 81 201 \\
        --minutes 9.5 --json benchmarks/results/comfyui-cuda.json

Models have random weights. On a CPU everything runs with tiny ones, to the end, in minutes; on a
card sizes are real unless --sizes tiny. Every job boots ComfyUI in a process of its own with the
arguments that it needs; every row is in the JSON as soon as it is measured. Started again with the
same JSON it goes on where it was: rows that are there are kept, errors too unless --again. With
--minutes nothing is begun that would not end in that time. --plan only says what is left, and how
long it will take, about.

The card: --cards 12 16 24 48 80 limits it to so many GB by holding the rest in another process;
0 is all of it. What "driver peak GB" says leaves out what is held. ComfyUI still reads the whole
size of the card, and what is free as it is.

Backends: --backends names rows of `python -m moga.kernels`. sdpa is PyTorch alone; for flash3
install fa3-fwd, or put its wheel on PYTHONPATH.

Afterwards: python benchmarks/comfyui_report.py RESULTS.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "scripts")]

import torch  # noqa: E402
from comfyui_jobs import CASES, Job, jobs, seconds_of, start_of  # noqa: E402
from comfyui_sizes import SHAPES  # noqa: E402
from find_comfyui import is_comfyui, read_version  # noqa: E402
from measuring import machine  # noqa: E402

GRACE = 20  # seconds past the end that a way may take which is nearly done


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end what was begun
    end = time.time() + 60 * options.minutes if options.minutes else float("inf")
    rows = read(options.json, options.again)
    place = where(options)
    here = [row for row in rows if place.items() <= row.items()]
    left = [(job, ways) for job in jobs(options) if (ways := undone(job, here))]
    say_plan(left, options)
    if options.plan:
        return 0
    failed = 0
    for job, ways in left:
        first = seconds_of(job, ways[0], options)
        if time.time() + start_of(job, options) + first > end:
            print(f"left for another call: {job.name}", flush=True)
            continue
        for row in run_job(job, ways, options, end):
            failed += "error" in row
            rows.append({**row, **place})
            print(json.dumps(rows[-1]), flush=True)
            write(options, rows)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    lines = argparse.RawDescriptionHelpFormatter
    text = __doc__ + "\nCases:\n" + "\n".join(f"    {n}  {what}" for n, what in CASES.items())
    parser = argparse.ArgumentParser(description=text, formatter_class=lines)
    add = parser.add_argument
    add("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--json", type=Path, help="where the rows go; what is there is kept")
    add("--cases", type=int, nargs="+", choices=CASES, default=list(CASES))
    add("--sizes", nargs="+", choices=SHAPES, help="of models; default: 1.3B 14B, on a CPU tiny")
    add("--frames", type=int, nargs="+", help="default: 81 201 477, on a CPU 17")
    add("--minute", type=int, help="frames of cases 6 and 7; default: 1441, on a CPU 49")
    add("--size", default="832x480", help="of the video; tiny models have one of their own")
    add("--dtypes", nargs="+", choices=("fp16", "bf16", "fp8"), help="default: those of the model")
    add("--backends", nargs="+", help="of MoGA in cases 1 and 7; default: sdpa auto, on a CPU sdpa")
    add("--ways", nargs="+", help="only these of each job, as --plan names them; default: all")
    add("--cards", type=int, nargs="+", default=[0], help="GB in case 1; 0 is the whole card")
    add("--flags", nargs="*", help="more of ComfyUI's own arguments to try in case 3, one at a "
        "time; default: --disable-dynamic-vram where it knows that")  # fmt: skip
    add("--steps", type=int, help="of a sampling in cases 1 and 3; default: 4, on a CPU 2")
    add("--minutes", type=float, help="that this call may take")
    add("--plan", action="store_true", help="only say what is left to do")
    add("--again", action="store_true", help="do rows that ended in an error again")
    options = parser.parse_args()
    tiny = options.device == "cpu"
    options.sizes = options.sizes or (["tiny"] if tiny else ["1.3B", "14B"])
    options.frames = options.frames or ([17] if tiny else [81, 201, 477])
    options.backends = options.backends or (["sdpa"] if tiny else ["sdpa", "auto"])
    options.steps = options.steps or (2 if tiny else 4)
    options.minute = options.minute or (49 if tiny else 1441)
    options.cards = [card or None for card in options.cards]
    if tiny and options.cards != [None]:
        parser.error("--cards limits a card; --device cpu has none")
    if not is_comfyui(options.comfyui.expanduser()):
        parser.error(f"--comfyui is {options.comfyui}, which is no ComfyUI folder")
    known = options.comfyui.expanduser() / "comfy" / "cli_args.py"
    text = known.read_text(encoding="utf-8") if known.exists() else ""
    options.static_vram = [flag for flag in ("--disable-dynamic-vram",) if flag in text]
    if options.flags is None:
        options.flags = options.static_vram
    if options.device == "cuda" and not (options.plan or torch.cuda.is_available()):
        parser.error("--device is cuda, and torch finds no card; give --device cpu")
    return options


def read(path: Path | None, again: bool) -> list[dict]:
    if path is None or not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if not (again and "error" in row)]


def write(options: argparse.Namespace, rows: list[dict]) -> None:
    if options.json is None:
        return
    about = machine(torch.device(options.device))
    # Without what names a place on this machine.
    paths = ("--comfyui", "--json")
    words = (word for word in sys.argv[1:] if os.sep not in word and word not in paths)
    about["command"] = " ".join(["python benchmarks/comfyui.py", *words])
    text = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
    part = options.json.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(options.json)


def where(options: argparse.Namespace) -> dict[str, str]:
    """What rows must have in common to be of one measurement."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    card = "cpu" if options.device == "cpu" else card
    version = ".".join(map(str, read_version(options.comfyui.expanduser())))
    return {"ComfyUI": version, "device": card}


def undone(job: Job, rows: list[dict]) -> list[str]:
    done = {row["way"] for row in rows if row["job"] == job.name}
    return [way for way in job.ways if way not in done]


def say_plan(left: list[tuple[Job, list[str]]], options: argparse.Namespace) -> None:
    total = 0.0
    for job, ways in left:
        took = start_of(job, options) + sum(seconds_of(job, way, options) for way in ways)
        total += took
        print(f"about {took:5.0f} s  {job.name}: {', '.join(ways)}")
    print(f"{len(left)} jobs left, about {total / 60:.0f} minutes", flush=True)


def run_job(job: Job, ways: list[str], options: argparse.Namespace, end: float) -> Iterator[dict]:
    """Rows of the ways, each as it is done. One that its process died of is an error."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        rows = run_child(job, ways, options, options.device, Path(base) / "0", end)
        if not job.beside_cpu:
            yield from rows
            return
        rows = list(rows)
        list(run_child(job, ways, options, "cpu", Path(base) / "1", end))
        for row in rows:
            yield {**row, "off the CPU's": difference(Path(base), row["way"])}


def run_child(
    job: Job, ways: list[str], options: argparse.Namespace, device: str, folder: Path, end: float
) -> Iterator[dict]:
    folder.mkdir()
    estimates = {way: seconds_of(job, way, options) for way in ways}
    spec = {
        **{"job": asdict(job), "ways": estimates, "device": device, "size": options.size},
        **{"steps": options.steps, "end": end, "comfyui": str(options.comfyui.expanduser())},
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, str(HERE / "comfyui_child.py"), str(folder / "spec.json")]
    environment = dict(os.environ)
    if device == "cuda" and "--disable-cuda-malloc" not in job.arguments:
        environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync")
    with (folder / "said.txt").open("w+", encoding="utf-8", errors="replace") as said:
        child = subprocess.Popen(
            command, stdout=said, stderr=said, env=environment, start_new_session=True
        )
        done = 0
        try:
            # What takes too long goes on another time.
            while (running := child.poll() is None) and time.time() < end + GRACE:
                for row in new_rows(folder, done):
                    done += 1
                    yield row
                time.sleep(0.2)
        finally:
            end_all(child)
        for row in new_rows(folder, done):
            done += 1
            yield row
        if child.returncode and not running and done < len(ways):
            said.seek(0)
            words = f"ended with {child.returncode}: {said.read()[-1500:]}"
            yield {**job.facts(), "way": ways[done], "error": words}


def end_all(child: subprocess.Popen) -> None:
    """End a job, and what it began: what holds the card, what decodes."""
    with suppress(OSError):  # where it has ended, and all of its group
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def new_rows(folder: Path, done: int) -> list[dict]:
    found = folder / "rows.jsonl"
    lines = found.read_text(encoding="utf-8").splitlines(True) if found.exists() else []
    return [json.loads(line) for line in lines[done:] if line.endswith("\n")]


def difference(base: Path, way: str) -> float | None:
    """How far the latents of two devices lie apart, relative to the second."""
    from comfyui_measure import apart
    from safetensors.torch import load_file

    files = [base / str(i) / f"{way}.safetensors" for i in range(2)]
    if not all(file.exists() for file in files):
        return None
    return apart(*(load_file(file)["latent"] for file in files))


if __name__ == "__main__":
    sys.exit(main())
