"""`python recipes/demo.py`, which `make demo` calls, and the model that it comes with."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from moga.data.storyboard import EVERYBODY, is_held_out
from moga.data.storyboard.evaluate import read_film
from moga.hosts.diffusers import load_wan, moga_config
from moga.shots import ShotList
from recipes.demo import MODEL, SCRIPT, main


@pytest.fixture
def shots():
    return ShotList.parse(SCRIPT.read_text(encoding="utf-8"), 16)


def test_the_film_shows_one_character_in_every_shot(tmp_path, shots):
    out = tmp_path / "demo"
    for words in (["--steps", "1"], []):  # the second run replaces the first
        assert main(["--out", str(out), *words]) == 0
    assert Image.open(out / "demo.png").width == 960
    with av.open(str(out / "demo.mp4")) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert len(frames) == shots.frames
    seen = read_film(frames, shots.frame_starts)
    assert [str(one.character) for one in seen] == ["red plain circle"] * 3


def test_its_script_is_of_three_shots_and_a_character_kept_from_training(shots):
    assert len(shots.shots) == 3
    (who,) = (c for c in EVERYBODY if f"A {c}." == shots.global_caption)
    assert is_held_out(who)


def test_the_model_is_small_and_has_routers():
    sizes = [path.stat().st_size for path in MODEL.glob("*.safetensors")]
    assert len(sizes) == 3 and sum(sizes) < 25e6
    assert moga_config(load_wan(MODEL / "model.safetensors")).groups == 5


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that root cannot write to")
def test_a_folder_that_cannot_be_written_is_one_sentence(capsys):
    assert main(["--out", "/proc/demo"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("demo: --out is /proc/demo, which cannot be written (")
    assert "\n" not in said
