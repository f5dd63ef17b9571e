"""One case of comfyui.py in this process: CASE COMFYUI DEVICE FOLDER. Leaves FOLDER/result.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

import torch  # noqa: E402
from comfyui_cases import CASES  # noqa: E402


def main(name: str, comfyui: str, device: str, folder: str) -> None:
    from harness.boot import boot

    # Compared with a CPU to rounding.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    case = CASES[name]
    base = Path(folder) / "comfyui"
    base.mkdir()
    arguments = [*case.arguments, *(["--cpu"] if device == "cpu" else [])]
    comfy = boot(Path(comfyui), base, ROOT, arguments)
    result = case.run(comfy, Path(folder))
    (Path(folder) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
