"""Case 6: decoding, beside core's nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from comfyui_jobs import Job
from comfyui_sizes import TINY_VIDEO, latent_shape

HERE = Path(__file__).resolve().parent
NARROW, REAL = 8, 96  # widths of the VAE


def decode(job: Job, way: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """decode.py in a process of its own, as its memory is measured from the outside too."""
    tiny = job.model == "tiny"
    command = [sys.executable, str(HERE / "decode.py"), "--comfyui", options["comfyui"]]
    command += ["--device", options["device"], "--frames", str(job.frames), "--ways", way]
    command += ["--size", TINY_VIDEO if tiny else options["size"]]
    command += ["--width", str(NARROW if tiny else REAL), "--out", str(folder / "decode")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-500:])
    (row,) = json.loads((folder / "decode.json").read_text(encoding="utf-8"))["results"]
    if "failed" in row:
        raise RuntimeError(row["failed"])
    return {key: value for key, value in row.items() if key not in ("way", "frames")}


def same_pictures(comfy: Any, job: Job, size: str) -> dict[str, Any]:
    """Chunked VAE Decode and VAE Decode, in the type that the job's arguments give the VAE."""
    vae, samples = _vae(job), _latent(job, size)
    pictures, seconds = [], []
    for node in ("VAEDecode", "MoGAChunkedDecode"):
        start = time.perf_counter()
        (found,) = comfy.call(node, samples=samples, vae=vae)
        pictures.append(found.reshape(-1, *found.shape[-3:]))
        seconds.append(round(time.perf_counter() - start, 2))
    expected, found = pictures
    return {
        "bit for bit": torch.equal(found, expected),
        "largest difference": float((found.float() - expected.float()).abs().max()),
        "type": str(vae.vae_dtype)[6:],
        "VAE Decode s": seconds[0],
        "chunked s": seconds[1],
    }


def one_format(comfy: Any, job: Job, name: str, size: str) -> dict[str, Any]:
    formats = comfy.module("moga.video.formats")
    problem = formats.trial(formats.choose_format(name))
    if problem:
        return {"skipped": problem}
    inputs = {"samples": _latent(job, size), "vae": _vae(job), "fps": 16.0, "format": name}
    start = time.perf_counter()
    comfy.call("MoGADecodeToVideo", **inputs)
    files = sorted(comfy.output_dir.rglob("*.*"), key=lambda path: path.stat().st_mtime)
    took = round(time.perf_counter() - start, 2)
    return {"seconds": took, "bytes": files[-1].stat().st_size, "file": files[-1].name}


def _vae(job: Job) -> Any:
    from decode import random_vae

    return random_vae(NARROW if job.model == "tiny" else REAL)


def _latent(job: Job, size: str) -> dict[str, torch.Tensor]:
    shape = latent_shape(job.frames, TINY_VIDEO if job.model == "tiny" else size)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
