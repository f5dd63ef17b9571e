"""Tiny models and videos in real files."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("pydantic")

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from harness.tokenizer import tokenizer
from safetensors.torch import save_file
from training_runs import AS_LONG, furnish, train_alone
from transformers import UMT5Config, UMT5EncoderModel
from videos import FPS, moving_square, write_video

from moga.hosts.diffusers import wan_state_dict

TEXT_WIDTH = 32
LENGTHS = (17, 21, 9)  # frames of the videos


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three videos, rows.jsonl and models; not to be changed."""
    folder = tmp_path_factory.mktemp("files")
    rows = []
    for seed, frames in enumerate(LENGTHS):
        write_video(folder / f"{seed}.mp4", moving_square(frames, seed))
        shots = [{"start": 0, "caption": f"wide {seed}"}, {"start": 5 / FPS, "caption": "close"}]
        rows.append({"video": f"{seed}.mp4", "global": "square", "shots": shots})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(AutoencoderKLWan(base_dim=8).state_dict(), folder / "vae.safetensors")
        dit = WanTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=128,
            num_layers=2,
            ffn_dim=64,
            text_dim=TEXT_WIDTH,
            freq_dim=64,
        )
        save_file(wan_state_dict(dit), folder / "wan.safetensors")
        config = UMT5Config(
            vocab_size=512, d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2
        )
        encoder = UMT5EncoderModel(config)
    tensors = {k: t for k, t in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    words = tokenizer(sentences=("a square moves to the right", "close up of a square"))
    tensors["spiece_model"] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
    save_file(tensors, folder / "umt5.safetensors")
    return folder


@pytest.fixture(autouse=True)
def new_process():
    """accelerate settles on a precision once per process; here many trainings share one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def project(files, tmp_path):
    """A folder with videos, rows, models and CONFIG."""
    return furnish(tmp_path, files)


@pytest.fixture(scope="session")
def trained(files, tmp_path_factory):
    """A training that nothing disturbed; not to be changed."""
    folder = furnish(tmp_path_factory.mktemp(AS_LONG.format("trained")), files)
    assert train_alone(folder) == 0
    return folder
