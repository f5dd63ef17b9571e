"""One job of comfyui.py in this process: SPEC.json, which says which ways are left to do.

Leaves a line of FOLDER/rows.jsonl for each way as it ends, so that nothing is lost when the process
is. What raises is a row too, as an out of memory is a result.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "comfyui"), str(ROOT / "scripts")]

from comfyui_jobs import Job  # noqa: E402

# Holds the rest of a larger card, until its input ends. In a process of its own: so neither torch
# here nor what allocates past it can use, or count, what is held.
BALLAST = """
import sys, torch
held = []
free, total = torch.cuda.mem_get_info()
while free - int(sys.argv[1]) >= 2**26:  # torch takes no less than whole blocks
    held.append(torch.empty(2**26, dtype=torch.uint8, device="cuda"))
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
print(total - free, flush=True)
sys.stdin.read()
"""


def main(spec_file: str) -> None:
    folder = Path(spec_file).parent
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    fields = {**spec["job"], "ways": tuple(spec["job"]["ways"])}
    job = Job(**{**fields, "arguments": tuple(fields["arguments"])})
    with smaller_card(job.card) as taken:
        run, common = runner(job, spec, folder, taken)
        for way, estimate in spec["ways"].items():
            if time.time() + estimate > spec["end"]:  # Infinity where there is none
                break
            start = time.perf_counter()
            row = {**job.facts(), "way": way, **common, **outcome(run, way)}
            row["seconds in all"] = round(time.perf_counter() - start, 1)
            with (folder / "rows.jsonl").open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")


def outcome(run: Callable[[str], dict], way: str) -> dict[str, Any]:
    try:
        return run(way)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:600]}


@contextmanager
def smaller_card(gigabytes: int | None) -> Iterator[int]:
    """Leave so much of the card to this process. Gives the bytes that something else holds."""
    if gigabytes is None:
        yield 0
        return
    command = [sys.executable, "-c", BALLAST, str(gigabytes * 10**9)]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert held.stdin is not None and held.stdout is not None
    try:
        yield int(held.stdout.readline())
    finally:
        held.stdin.close()
        held.wait()


def runner(
    job: Job, spec: dict[str, Any], folder: Path, taken: int
) -> tuple[Callable[[str], dict], dict[str, Any]]:
    """What runs one way of the job, and what all its rows say."""
    if job.kind == "decode":
        from comfyui_films import decode

        return lambda way: decode(job, way, spec, folder), {}
    comfyui, dynamic = booted(job, spec, folder)
    common = {"dynamic VRAM": dynamic}
    if job.kind == "graphs":
        from comfyui_ways import graphs

        return lambda way: graphs(comfyui, way, folder), common
    if job.kind in ("same pictures", "formats"):
        from comfyui_films import one_format, same_pictures

        if job.kind == "formats":
            return lambda way: one_format(comfyui, job, way, spec["size"]), common
        return lambda way: same_pictures(comfyui, job, spec["size"]), common
    from comfyui_features import features
    from comfyui_scene import Bench
    from comfyui_ways import WAYS

    bench = Bench(comfyui, job, spec["size"], spec["steps"], taken)
    run = {**WAYS, "features": features}[job.kind]
    return lambda way: run(bench, way), common


def booted(job: Job, spec: dict[str, Any], folder: Path) -> tuple[Any, bool]:
    """ComfyUI in this process as main.py would start it, and whether it has dynamic VRAM."""
    if job.case == 2:
        import torch

        # Compared with a CPU to rounding.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    from harness.boot import boot

    dtype = {"fp16": ["--fp16-unet"], "bf16": ["--bf16-unet"]}.get(job.dtype, [])
    arguments = [*job.arguments, *(dtype if job.case != 6 else [])]
    arguments += ["--cpu"] if spec["device"] == "cpu" else []
    root = Path(spec["comfyui"])
    begun = spec["device"] == "cuda" and begin_dynamic_vram(root, arguments)
    (folder / "comfyui").mkdir(exist_ok=True)
    comfyui = boot(root, folder / "comfyui", ROOT, arguments)
    return comfyui, begun and dynamic_vram()


def begin_dynamic_vram(root: Path, arguments: list[str]) -> bool:
    """What main.py does before torch is loaded, where this version has it."""
    text = (root / "main.py").read_text(encoding="utf-8")
    off = {"--disable-dynamic-vram", "--highvram", "--gpu-only", "--novram"}
    if "comfy_aimdo" not in text or off & set(arguments):
        return False
    import comfy_aimdo.control

    comfy_aimdo.control.init()
    return True


def dynamic_vram() -> bool:
    """What main.py does once it knows the cards."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control
    from comfy.cli_args import args

    card = comfy.model_management.get_torch_device()
    try:
        headroom = int(getattr(args, "vram_headroom", 0) * 2**30)
        begun = comfy_aimdo.control.init_devices(iter([(card.index or 0, headroom)]))
    except TypeError:  # comfy-aimdo before 0.4.10
        begun = comfy_aimdo.control.init_devices(iter([card.index or 0]))
    if begun:
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
    return bool(begun)


if __name__ == "__main__":
    main(sys.argv[1])
