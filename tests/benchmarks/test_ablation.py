"""What the ablation keeps of an earlier run, and what it makes anew."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("ablation", FOLDER / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(ablation, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--work", "work", *words])
    return ablation.read_options()


@pytest.mark.parametrize("name", ["steps", "batch", "clips", "films", "words"])
def test_a_model_of_other_options_is_not_kept(ablation, monkeypatch, tmp_path, name):
    out = tmp_path / "dense-0"
    ablation.begin(out, ablation.defined(options(ablation, monkeypatch)))
    (out / "measured.json").write_text("{}")
    ablation.begin(out, ablation.defined(options(ablation, monkeypatch, "--seeds", "5")))
    assert (out / "measured.json").exists()
    ablation.begin(out, ablation.defined(options(ablation, monkeypatch, f"--{name}", "3")))
    assert not (out / "measured.json").exists()


@pytest.mark.parametrize("name", ["vae", "text_encoder"])
def test_a_model_of_other_weights_is_not_kept(ablation, monkeypatch, tmp_path, name):
    """Even if they lie where the others lay."""
    for part in ("vae", "text_encoder"):
        (tmp_path / f"{part}.safetensors").write_bytes(b"one")
    asked, out = options(ablation, monkeypatch, "--models", str(tmp_path)), tmp_path / "dense-0"
    ablation.begin(out, ablation.defined(asked))
    (out / "measured.json").write_text("{}")
    ablation.begin(out, ablation.defined(asked))
    assert (out / "measured.json").exists()
    (tmp_path / f"{name}.safetensors").write_bytes(b"another")
    ablation.begin(out, ablation.defined(asked))
    assert not (out / "measured.json").exists()


def test_results_of_unknown_options_are_not_kept(ablation, tmp_path):
    (tmp_path / "dense-0").mkdir()
    (tmp_path / "dense-0" / "measured.json").write_text('{"steps": 4000}')
    ablation.begin(tmp_path / "dense-0", {"steps": 4000})
    assert not (tmp_path / "dense-0" / "measured.json").exists()
