"""The README's block on diffusers runs as it is written, with tiny models under the names in it."""

import re
import runpy
from pathlib import Path

import pytest
from safetensors.torch import save_file

from moga.checkpoint import write
from moga.config import MoGAConfig
from moga.hosts.diffusers import enable_moga, wan_state_dict

README = Path(__file__).resolve().parents[2] / "README.md"


def block():
    """The first Python block under a heading that names diffusers."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    found = re.search(r"^#+ [^\n]*diffusers[^\n]*\n(.*?)(?=^#+ |\Z)", text, re.M | re.S | re.I)
    code = found and re.search(r"^```python\n(.*?)^```", found[1], re.M | re.S)
    if not code:
        pytest.skip("README.md has no Python block under a heading that names diffusers")
    return code[1]


def test_the_block_runs_as_written(tiny, tmp_path, monkeypatch):
    code = block()
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"\"([^\"\n]+\.safetensors)\"", code)
    assert len(files) >= 3
    for name in files:
        if "vae" in name:
            save_file(tiny.vae(base_dim=2).state_dict(), name)
        elif "umt5" in name:
            save_file(tiny.text_encoder_tensors(tiny.text_encoder()), name)
        else:
            dit = tiny.wan(num_attention_heads=1, num_layers=1)
            enable_moga(dit, MoGAConfig(), "random")
            write(name, wan_state_dict(dit), MoGAConfig())
    assert len(code.strip().splitlines()) <= 14
    Path("story.txt").write_text("[5f] A fox in the snow.\n[4f] Close-up. Its ears twitch.")
    Path("readme.py").write_text(code, encoding="utf-8")
    runpy.run_path("readme.py")
    (film,) = tmp_path.glob("*.mp4")
    assert film.stat().st_size > 1000
