"""A real ComfyUI with this pack on a GPU: the shipped graphs, and what may go wrong around them.

    python benchmarks/comfyui.py --comfyui ~/comfy/ComfyUI --json benchmarks/results/comfyui.json

Every case boots ComfyUI in a process of its own, with the arguments that the case needs, and adds
its row to the JSON when it is done. Models have random weights: what they draw does not matter.
`--device cpu` tries the same cases with small models where there is no card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from comfyui_cases import CASES
from measuring import machine
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
LIMIT = 900  # seconds a case


def main() -> int:
    options = parse()
    chosen = [name for name in CASES if not options.cases or name in options.cases]
    rows: list[dict] = []
    failed = 0
    for name in chosen:
        start = time.perf_counter()
        row = run_case(name, options)
        row["seconds"] = round(time.perf_counter() - start, 1)
        failed += "error" in row
        print(json.dumps(row), flush=True)
        rows.append(row)
        if options.json:
            about = machine(torch.device(options.device))
            about["comfyui"] = version(options.comfyui)
            options.json.write_text(json.dumps({"machine": about, "cases": rows}, indent=1) + "\n")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, help="where the results go, after every case")
    parser.add_argument("--cases", nargs="*", help=f"out of {', '.join(CASES)}; default: all")
    options = parser.parse_args()
    if unknown := set(options.cases or ()) - set(CASES):
        parser.error(f"--cases has {min(unknown)}; choose out of {', '.join(CASES)}")
    return options


def run_case(name: str, options: argparse.Namespace) -> dict:
    """The row of a case, run in a process of its own."""
    case = CASES[name]
    row: dict = {"case": name, "arguments": list(case.arguments)}
    devices = [options.device, *(["cpu"] if case.beside_cpu else [])]
    with tempfile.TemporaryDirectory() as base:
        try:
            results = [run_child(name, options, d, Path(base) / str(i))
                       for i, d in enumerate(devices)]  # fmt: skip
        except RuntimeError as error:
            return {**row, "error": str(error)}
        row |= results[0]
        if case.beside_cpu:
            row["off the CPU's"] = differences(Path(base) / "0", Path(base) / "1")
    return row


def run_child(name: str, options: argparse.Namespace, device: str, folder: Path) -> dict:
    """What a case returns. Raises RuntimeError with the end of what it said."""
    folder.mkdir()
    command = [sys.executable, str(HERE / "comfyui_child.py"), name]
    command += [str(options.comfyui), device, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no end after {LIMIT} seconds") from None
    result = folder / "result.json"
    if done.returncode or not result.is_file():
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return json.loads(result.read_text())


def differences(first: Path, second: Path) -> dict[str, float]:
    """How far the tensors of two runs lie apart, relative to the second."""
    found = {}
    for path in sorted(first.glob("*.safetensors")):
        a, b = (load_file(folder / path.name)["latent"] for folder in (first, second))
        found[path.stem] = float((a - b).norm() / b.norm())
    return found


def version(comfyui: Path) -> str:
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    return text.partition('"')[2].partition('"')[0]


if __name__ == "__main__":
    sys.exit(main())
