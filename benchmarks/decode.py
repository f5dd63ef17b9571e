"""Memory and speed of saving a long video: our node beside VAE Decode and Save Video.

    python benchmarks/decode.py --comfyui ComfyUI
    python benchmarks/decode.py --comfyui ComfyUI --device cuda --size 832x480

The VAE is Wan 2.1's with random weights: memory and speed don't depend on their values. It has the
real width unless --width makes a narrow one, so that frames weigh more than features.

Each measurement has a fresh process, as people start ComfyUI: with the C library's own way of
keeping freed memory, which counts, and in a thread beside the main one. "Peak" is the most memory
that process took for data while it decoded and saved (anonymous memory, which leaves out the code
of libraries, as the system pages that in and out), "grown" is that less what it held before. What
loading had left free is given back first, so that nothing hides in it. Ways:

    moga     Chunked VAE Decode to Video
    serial   the same without the pipeline: decode, copy and encode take turns
    core     VAE Decode, Create Video, Save Video
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import Parameter, signature
from pathlib import Path
from threading import Event, Thread

REPOSITORY = Path(__file__).resolve().parents[1]
WAYS = ("moga", "serial", "core")
MB = 2**20


def main() -> None:
    options = read_options()
    if options.child:
        print(json.dumps(measure(options)))
        return
    results = []
    for frames in options.frames:
        for way in options.ways:
            results.append(in_child(way, frames))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    machine = {
        "command": command_line(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory_total():.0f} GB, "
        + next(result["device"] for result in results if "device" in result),
        "versions": next(result["versions"] for result in results if "versions" in result),
        "size": options.size,
        "width of the VAE": options.width,
        "threads": options.threads,
    }
    for result in results:
        result.pop("device", None), result.pop("versions", None)
    text = report(machine, results)
    print(text)
    if options.out:
        Path(f"{options.out}.md").write_text(text, encoding="utf-8")
        data = {**machine, "results": results}
        Path(f"{options.out}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", default="~/comfy/ComfyUI", help="ComfyUI's folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", default="64x64", help="width x height, multiples of 8")
    parser.add_argument("--frames", type=int, nargs="+", default=[81, 361, 721, 1441])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["moga", "core"])
    parser.add_argument("--width", type=int, default=96, help="of the VAE; the real one has 96")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    parser.add_argument("--out", help="write OUT.md and OUT.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def command_line() -> str:
    """The command as given, without what names a place on this machine."""
    words = [
        word for word in sys.argv[1:] if "/" not in word and word not in ("--comfyui", "--out")
    ]
    return " ".join(["python benchmarks/decode.py", *words])


def in_child(way: str, frames: int) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--child"]
    command += ["--frames", str(frames), "--ways", way]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode < 0:  # killed, as for want of memory
        return {"way": way, "frames": frames, "failed": f"signal {-run.returncode}"}
    if run.returncode:
        sys.exit(run.returncode)
    return json.loads(run.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict:
    """One way at one length, in this process."""
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(1) as pool:
        booted = boot(Path(options.comfyui).expanduser(), Path(base), options.device)
        return pool.submit(decode_and_save, options, *booted).result()


def decode_and_save(options: argparse.Namespace, nodes: dict, pack) -> dict:
    import torch

    (way,), (frames,) = options.ways, options.frames
    if options.threads:
        torch.set_num_threads(options.threads)
    width, height = map(int, options.size.split("x"))
    save = {"moga": by_node, "serial": in_turns, "core": by_core}[way]
    with torch.inference_mode():
        vae, samples = random_vae(options.width), latent(frames, height, width)
        save(nodes, pack, vae, latent(5, height, width))  # kernels chosen, modules imported
        start_over(options.device)
        with HostMemory() as host:
            start = time.perf_counter()
            save(nodes, pack, vae, samples)
            seconds = time.perf_counter() - start
    result = {
        "way": way,
        "frames": frames,
        "seconds": round(seconds, 1),
        "frames_a_second": round(frames / seconds, 2),
        "host_peak_mb": round(host.peak),
        "host_grown_mb": round(host.peak - host.before),
        "device": "cpu",
        "versions": versions(nodes),
    }
    if options.device == "cuda":
        result["device_peak_mb"] = round(torch.cuda.max_memory_allocated() / MB)
        result["device"] = torch.cuda.get_device_name()
    return result


def boot(root: Path, base: Path, device: str):
    """ComfyUI in this process, with this repository as its only custom node."""
    ours = (REPOSITORY / "tests" / "comfyui", REPOSITORY / "scripts")
    sys.path[:0] = [str(root), *map(str, ours)]
    sys.argv = ["main.py", "--base-directory", str(base), *(["--cpu"] if device == "cpu" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    # Before nodes, which server imports too: see tests/comfyui/harness/boot.py.
    import utils.extra_config  # noqa: F401

    # isort: split
    import server
    from harness.boot import Server, loaded_pack

    import nodes

    server.PromptServer.instance = Server()
    asyncio.run(load(nodes, root))
    return nodes.NODE_CLASS_MAPPINGS, loaded_pack(nodes, REPOSITORY)


async def load(nodes, root: Path) -> None:
    await nodes.load_custom_node(
        str(root / "comfy_extras" / "nodes_video.py"), module_parent="comfy_extras"
    )
    await nodes.load_custom_node(str(REPOSITORY), module_parent="custom_nodes")


def random_vae(dim: int):
    import comfy.ldm.wan.vae
    import comfy.sd
    from harness.tiny import random_weights

    sizes = {"dim": dim, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    model = comfy.ldm.wan.vae.WanVAE(**sizes, temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd=random_weights(model, 0))


def latent(frames: int, height: int, width: int) -> dict:
    import torch

    shape = (1, 16, (frames + 3) // 4, height // 8, width // 8)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(0))}


def call(nodes: dict, name: str, *args, **inputs):
    """The first output of a node."""
    cls = nodes[name]
    if not hasattr(cls, "PREPARE_CLASS_CLONE"):
        return getattr(cls(), cls.FUNCTION)(*args, **inputs)[0]
    result = cls.PREPARE_CLASS_CLONE(None).execute(*args, **inputs).result
    return result[0] if result else None


def by_node(nodes: dict, pack, vae, samples: dict) -> None:
    call(nodes, "MoGADecodeToVideo", samples, vae, 16.0, "video/moga", 18)


def by_core(nodes: dict, pack, vae, samples: dict) -> None:
    images = call(nodes, "VAEDecode", samples=samples, vae=vae)
    video = call(nodes, "CreateVideo", images=images, fps=16.0)
    codec = signature(nodes["SaveVideo"].execute).parameters["codec"].default
    codec = {"codec": "auto"} if codec is Parameter.empty else {}  # up to ComfyUI 0.20
    call(nodes, "SaveVideo", video=video, filename_prefix="video/core", format="mp4", **codec)


def in_turns(nodes: dict, pack, vae, samples: dict) -> None:
    from importlib import import_module

    import folder_paths

    host = import_module(f"{pack.__name__}.moga.hosts.comfyui.vae")
    writer = import_module(f"{pack.__name__}.moga.video").VideoWriter
    to_uint8 = import_module(f"{pack.__name__}.moga.vae.decode").to_uint8
    plan = host.plan_decode(vae, samples)
    path = Path(folder_paths.get_output_directory(), f"{plan.frames}.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writer(path, plan.width, plan.height, 16) as video:
        host.decode_frames(vae, plan, lambda frames: video.write(to_uint8(frames).cpu().numpy()))


def start_over(device: str) -> None:
    """Forget the device's peak so far, and give back what the host has free."""
    gc.collect()
    with suppress(AttributeError, OSError):  # not the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


class HostMemory:
    """MB that this process holds for data: before the block, and at most within it."""

    def __enter__(self) -> HostMemory:
        self.before = self.peak = self.now()
        self._end = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.01):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024


def memory_total() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def versions(nodes: dict) -> str:
    import comfyui_version
    import imageio_ffmpeg
    import torch

    return (
        f"ComfyUI {comfyui_version.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"
    )


def report(machine: dict, results: list[dict]) -> str:
    columns = list(dict.fromkeys(key for result in results for key in result))
    rows = [[str(result.get(key, "-")) for key in columns] for result in results]
    lines = [
        "# Decode and save: memory and speed",
        "",
        *(f"- {key}: {value}" for key, value in machine.items()),
        "",
        "| " + " | ".join(columns).replace("_", " ") + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
