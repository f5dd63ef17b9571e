"""Runs the shared workflow, as it is, through the ComfyUI found: shot script to video, no browser.

The models are tiny and random, so the picture is noise; the graph, the nodes and ComfyUI are real.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

from harness.find import find_comfyuis  # noqa: E402

OUT = ROOT / "demo"
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


def run_workflow(comfyui: Path, base: Path) -> Path:
    """The video that the workflow leaves in ComfyUI's output folder."""
    from harness import tiny
    from harness.boot import boot
    from harness.graph import api_prompt
    from harness.workflow import install_models, small

    comfy = boot(comfyui, base, ROOT)
    install_models(comfy)
    prompt = api_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), comfy.nodes)
    with tiny.small_models():
        comfy.run(small(prompt, width=256, height=144, steps=2))
    (video,) = comfy.output_dir.rglob("*.mp4")
    return video


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
