"""Runs the shared workflow through the ComfyUI found: shot script to video, no browser.

The graph, the nodes and ComfyUI are as they are; the model is the demo's, the script
recipes/demo.txt. ComfyUI tells the kind of model from the file and takes its sizes for granted,
so while the files are loaded it is told the demo's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "comfyui")]

from find_comfyui import find_comfyuis  # noqa: E402

OUT = ROOT / "demo"
MODEL = ROOT / "recipes" / "demo_model"
SCRIPT = ROOT / "recipes" / "demo.txt"
WORKFLOW = ROOT / "workflows" / "moga_t2v_multishot.json"
NONE_FOUND = (
    "No ComfyUI found, so the workflow was not run: set COMFYUI_PATH to a ComfyUI folder, or put "
    "one at ~/comfy/ComfyUI, and run make demo again."
)


def main() -> int:
    found = find_comfyuis()
    if not found:
        print(NONE_FOUND)
        return 0
    with tempfile.TemporaryDirectory() as base:
        video = run_workflow(found[0], Path(base))
        OUT.mkdir(exist_ok=True)
        target = OUT / "comfyui.mp4"
        shutil.copyfile(video, target)
    sheet = contact_sheet(target)
    print(f"{found[0].name}: {WORKFLOW.name} made {target} and {sheet}")
    return 0


def run_workflow(comfyui: Path, base: Path, **changes: Any) -> Path:
    """The video that the workflow leaves in ComfyUI's output folder. changes: of widgets."""
    from harness.boot import boot
    from harness.graph import api_prompt
    from harness.workflow import small

    server = boot(comfyui, base, ROOT)
    prompt = api_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.nodes)
    with as_small_as(install(server)):
        script = SCRIPT.read_text(encoding="utf-8")
        shown = {"width": 160, "height": 96, "steps": 20, "cfg": 3.0, "shift": 3.0}
        server.run(small(prompt, **{**shown, "script": script, **changes}))
    (video,) = server.output_dir.rglob("*.mp4")
    return video


def install(server: Any) -> dict[str, tuple[int, ...]]:
    """Put the demo's files under the names that the workflow asks for. Returns their shapes."""
    import torch
    from harness.workflow import ENCODER, MOGA, VAE
    from safetensors.torch import load_file, save_file

    folders = {MOGA: "diffusion_models", VAE: "vae", ENCODER: "text_encoders"}
    places = {name: server.models_dir / folder / name for name, folder in folders.items()}
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MODEL / "model.safetensors", places[MOGA])
    shutil.copyfile(MODEL / "vae.safetensors", places[VAE])
    encoder = load_file(MODEL / "text_encoder.safetensors")
    # By the shape of this one, ComfyUI sees a UMT5-XXL.
    marker = {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": torch.zeros(10240, 0)}
    save_file({**encoder, **marker}, places[ENCODER])
    found = {}
    for name in ("model", "vae", "text_encoder"):
        tensors = load_file(MODEL / f"{name}.safetensors")
        found |= {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return found


@contextlib.contextmanager
def as_small_as(shapes: dict[str, tuple[int, ...]]) -> Iterator[None]:
    """Within it ComfyUI builds text encoder, VAE and Wan model in the sizes of these weights."""
    import comfy.ldm.wan.model
    import comfy.ldm.wan.vae
    import comfy.text_encoders.t5
    import pytest
    from harness.tiny import resize

    from moga.hosts.diffusers.text_encoder import umt5_config

    t5 = umt5_config(shapes)
    vae = {"dim": shapes["decoder.head.0.gamma"][0]}
    text = {"text_dim": shapes["text_embedding.0.weight"][1]}
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, comfy.text_encoders.t5, "T5", lambda config, *rest: (config | t5, *rest))
        resize(patch, comfy.ldm.wan.vae, "WanVAE", lambda **config: config | vae)
        resize(patch, comfy.ldm.wan.model, "WanModel", lambda **config: config | text)
        yield


def contact_sheet(video: Path) -> Path:
    """Twelve frames of the video in one picture beside it."""
    import av
    from PIL import Image

    with av.open(str(video)) as file:
        frames = [frame.to_image() for frame in file.decode(video=0)]
    chosen = [frames[i * (len(frames) - 1) // 11] for i in range(12)]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (4 * width, 3 * height))
    for i, frame in enumerate(chosen):
        sheet.paste(frame, (i % 4 * width, i // 4 * height))
    path = video.with_suffix(".png")
    sheet.save(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
