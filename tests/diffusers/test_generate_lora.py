"""`python -m moga.generate --lora`: which LoRA goes where, how much of it, and at what cost."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moga.checkpoint import write
from moga.config import MoGAConfig
from moga.generate import main
from moga.generate.options import parse
from moga.hosts.diffusers import make_scheduler, wan_state_dict

KEY = "diffusion_model.blocks.0.{}.lora_{}.weight"


@pytest.fixture
def lora(tmp_path):
    """A LoRA file for the tiny models, with routers where they are given."""

    def lora(name="style", seed=0, routers=None):
        make = torch.Generator().manual_seed(seed)
        tensors = {} if routers is None else load_file(routers)
        for module, out in (("self_attn.q", 256), ("ffn.0", 256)):
            tensors[KEY.format(module, "A")] = torch.randn(4, 256, generator=make) / 8
            tensors[KEY.format(module, "B")] = torch.randn(out, 4, generator=make) / 4
        path = tmp_path / f"{name}.safetensors"
        write(path, tensors, MoGAConfig() if routers else None)
        return path

    return lora


@pytest.fixture
def film(line, tmp_path):
    """The latents of the film of a command line with more words."""
    count = iter(range(99))

    def film(*words, **changes):
        out = tmp_path / f"film{next(count)}.mp4"
        assert main([*line(out=out, **changes), *map(str, words)]) == 0
        return load_file(out.with_suffix(".latents.safetensors"))["latents"]

    return film


def same(a, b):
    """To rounding: weights that lie otherwise in memory may differ in the last bit of a sum."""
    return (a - b).abs().max() < 1e-5 * b.abs().max()


def merged(model, path, *loras, routers=None):
    """A model file with LoRAs in its weights, by hand."""
    tensors = load_file(model) | ({} if routers is None else load_file(routers))
    for lora, weight in loras:
        halves = load_file(lora)
        for module in ("self_attn.q", "ffn.0"):
            up, down = (halves[KEY.format(module, half)] for half in "BA")
            tensors[f"blocks.0.{module}.weight"] += weight * (up @ down)
    write(path, tensors, MoGAConfig())
    return path


def test_loras_are_added_by_weight(film, lora, model_files, tmp_path):
    first, second = lora("first", 1), lora("second", 2)
    found = film("--lora", f"{first}:0.8", "--lora", second)
    both = merged(model_files("t2v"), tmp_path / "both.safetensors", (first, 0.8), (second, 1))
    assert same(found, film(model=both)) and not same(found, film())
    assert not same(film("--lora", f"{first}:-1"), film("--lora", first))


def test_weight_0_is_the_film_without(film, lora, model_files):
    plain = film()
    for weight in ("0", "-0.0"):
        assert torch.equal(film("--lora", f"{lora()}:{weight}"), plain)
    with_routers = lora("adapter", routers=model_files("routers"))
    assert torch.equal(film("--lora", f"{with_routers}:0"), plain)
    dense = {"model": model_files("plain"), "attention": "dense"}
    assert torch.equal(film("--lora", f"{with_routers}:0", **dense), film(**dense))


def test_an_adapter_brings_its_routers(film, lora, model_files, tmp_path, capsys):
    adapter = lora("adapter", routers=model_files("routers"))
    found = film("--lora", f"{adapter}:0.5", model=model_files("plain"))
    assert f"lora      {adapter.name} at 0.5, with its routers: plain" in capsys.readouterr().out
    whole = merged(model_files("plain"), tmp_path / "whole.safetensors", (adapter, 0.5),
                   routers=model_files("routers"))  # fmt: skip
    assert same(found, film(model=whole))
    # Given as routers it is the same; and for dense attention its routers are left alone.
    as_routers = film(model=model_files("plain"), routers=adapter)
    assert torch.equal(as_routers, film("--lora", adapter, model=model_files("plain")))
    dense = film("--lora", adapter, model=model_files("plain"), attention="dense")
    assert "with its routers" not in capsys.readouterr().out.rpartition("dense, by")[2]
    bare = merged(model_files("plain"), tmp_path / "bare.safetensors", (adapter, 1))
    assert same(dense, film(model=bare, attention="dense")) and not same(dense, as_routers)


def test_each_expert_has_its_own(film, lora, model_files, tmp_path, capsys):
    high, low = lora("high", 1), lora("low", 2)
    both = {"model": None, "model_high": model_files("t2v"), "model_low": model_files("low"),
            "steps": 4}  # fmt: skip
    found = film("--lora", high, "--lora-low", f"{low}:0.5", **both)
    said = capsys.readouterr().out
    assert "lora      high.safetensors at 1: t2v.safetensors" in said
    assert "lora      low.safetensors at 0.5: low.safetensors" in said
    files = {
        "model_high": merged(model_files("t2v"), tmp_path / "h.safetensors", (high, 1)),
        "model_low": merged(model_files("low"), tmp_path / "l.safetensors", (low, 0.5)),
    }
    assert same(found, film(**{**both, **files}))
    alone = film("--lora-low", f"{low}:0.5", **both)
    assert same(alone, film(**{**both, "model_low": files["model_low"]}))
    assert not same(alone, found) and not same(alone, film(**both))


@pytest.mark.parametrize(("cfg", "each"), [(1, 1), (5, 2)])
def test_few_steps_without_guidance_are_one_forward_each(film, lora, monkeypatch, cfg, each):
    """As step-distilled LoRAs are used."""
    calls, forward = [], WanTransformer3DModel.forward

    def counted(self, *args, **kwargs):
        calls.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", counted)
    film("--lora", lora(), "--steps", 4, "--cfg", cfg)
    assert len(calls) == 4 * each


def test_the_readmes_command_line(tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^python -m moga\.generate ((?:[^\n]*\\\n)*[^\n]*--lora[^`]*)", text, re.M
    )
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("[5f] one")
    options = parse(shlex.split(command.replace("\\\n", "")))
    assert (options.steps, options.cfg, options.scheduler, options.shift) == (4, 1, "unipc", 5)
    assert len(options.loras) == len(options.loras_low) == 1


def test_the_noise_levels_of_few_steps():
    """Those that a step-distilled LoRA was trained at, of 4 even steps moved by a shift of 5."""
    scheduler = make_scheduler("unipc", 5.0)
    scheduler.set_timesteps(4)
    even = torch.tensor([1, 0.75, 0.5, 0.25, 0])
    assert torch.allclose(scheduler.sigmas, 5 * even / (1 + 4 * even), atol=1e-3)


def test_the_latents_say_which(film, lora, tmp_path):
    high = lora()
    film("--lora", f"{high}:0.8", "--lora", lora("other"))
    film()
    notes = []
    for name in ("film0", "film1"):
        with safe_open(tmp_path / f"{name}.latents.safetensors", "pt") as file:
            notes.append(json.loads(file.metadata()["moga_generate"]))
    assert notes[0]["loras"] == [f"{high}:0.8", f"{tmp_path / 'other.safetensors'}:1.0"]
    assert "loras" not in notes[1] and "loras_low" not in notes[0]


def test_latents_are_decoded_without_a_look_at_loras(line, lora, tmp_path):
    assert main([*line(), "--lora", str(lora())]) == 0
    again = {"embeddings": None, "latents": tmp_path / "film.latents.safetensors", "model": None}
    words = ["--lora", str(tmp_path / "gone.safetensors")]
    assert main([*line(**again, out=tmp_path / "again.mp4"), *words]) == 0
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


@pytest.mark.parametrize(("text", "path", "weight"), [
    ("x.safetensors", "x.safetensors", 1),
    ("x.safetensors:0.8", "x.safetensors", 0.8),
    ("x.safetensors:-2", "x.safetensors", -2),
    ("x.safetensors:1e-1", "x.safetensors", 0.1),
    (r"C:\loras\x.safetensors", r"C:\loras\x.safetensors", 1),
    (r"C:\loras\x.safetensors:0.8", r"C:\loras\x.safetensors", 0.8),
    ("C:/loras/x.safetensors", "C:/loras/x.safetensors", 1),
    ("C:x.SafeTensors", "C:x.SafeTensors", 1),
    ("a:0.5/x.safetensors", "a:0.5/x.safetensors", 1),
    ("a:0.5.safetensors:2", "a:0.5.safetensors", 2),
    ("x:0.5:1", "x:0.5", 1),
])  # fmt: skip
def test_a_colon_in_a_path_stays_there(line, text, path, weight):
    (found,) = parse([*line(), "--lora", text]).loras
    assert (found.path, found.weight) == (Path(path), weight)
    (low,) = parse([*line(model=None, model_high="h", model_low="l"), "--lora-low", text]).loras_low
    assert low == found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("aC:\\/. 0-", min_size=1), st.none() | st.floats(-100, 100), st.booleans())
def test_any_path_and_any_weight(line, name, weight, upper):
    path = name + (".SFT" if upper else ".safetensors")
    text = path if weight is None else f"{path}:{weight!r}"
    (found,) = parse([*line(), f"--lora={text}"]).loras
    assert (found.path, found.weight) == (Path(path), 1 if weight is None else weight)


def bad(words, *given, **changes):
    return pytest.param(given, changes, words, id=words[:50])


@pytest.mark.parametrize(("given", "changes", "words"), [
    bad("--lora is 'style.safetensors:abc', and its weight 'abc' is no number; give FILE or FILE:0",
        "--lora", "style.safetensors:abc"),
    bad("its weight '0,8' is no number", "--lora", "style.safetensors:0,8"),
    bad("its weight '' is no number", "--lora", "style.safetensors:"),
    bad("whose weight is nan; give a number from -100 to 100", "--lora", "style.safetensors:nan"),
    bad("whose weight is -inf;", "--lora", "style.safetensors:-inf"),
    bad("whose weight is 101;", "--lora", "style.safetensors:101"),
    bad("--lora is ':0.8', which names no file", "--lora", ":0.8"),
    bad("--lora-low is 'x:y', and its weight 'y'", "--lora-low", "x:y"),
    bad("--lora names style.safetensors twice; give it once, with the sum of the weights",
        "--lora", "style.safetensors:0.3", "--lora", "./style.safetensors"),
    bad("--lora names adapter.safetensors, as --routers does; --lora takes the routers in it too",
        "--lora", "adapter.safetensors", routers="adapter.safetensors"),
    bad("none.safetensors is not there; check the path", "--lora", "none.safetensors:0.5"),
    bad(r"C:\none.safetensors is not there", "--lora", r"C:\none.safetensors:0.5"),
    bad("folder.safetensors cannot be read (Is a directory)", "--lora", "folder.safetensors"),
    bad("story.txt is not a .safetensors file", "--lora", "story.txt"),
    bad("text.safetensors holds no LoRA, it looks like", "--lora", "text.safetensors"),
    bad("fake.safetensors is damaged or incomplete", "--lora", "fake.safetensors"),
    bad("wide.safetensors does not fit t2v.safetensors: it changes blocks.0.self_attn.q.weight as "
        "if that had the size 5120x5120, and the model's has 256x256",
        "--lora", "wide.safetensors:0"),
    bad("other.safetensors has a tensor that fits nothing in t2v.safetensors, such as "
        "'diffusion_model.blocks.9.ffn.0.diff_b'", "--lora", "other.safetensors"),
    bad("nan.safetensors has values in 'diffusion_model.blocks.0.ffn.0.diff_b' that aren't",
        "--lora", "nan.safetensors"),
    bad("--lora-low is for the low-noise expert of Wan 2.2 14B, and t2v.safetensors is one model",
        "--lora-low", "style.safetensors"),
    bad("plain.safetensors holds no MoGA routers; give --routers FILE, or", "--lora",
        "style.safetensors", model="plain"),
    bad("both adapter.safetensors and copy.safetensors hold MoGA routers", "--lora",
        "adapter.safetensors", "--lora", "copy.safetensors"),
    bad("adapter.safetensors has routers for 2 blocks, the model has 3", "--lora",
        "adapter.safetensors", model="three.safetensors"),
])  # fmt: skip
def test_bad_requests(
    line, lora, tiny, model_files, tmp_path, monkeypatch, capsys, given, changes, words
):
    """One sentence and status 2, before the model is read, and nothing is left."""
    monkeypatch.chdir(tmp_path)
    lora()
    for name in ("adapter", "copy"):
        lora(name, routers=model_files("routers"))
    Path("folder.safetensors").mkdir()
    Path("fake.safetensors").write_bytes(lora("x").read_bytes()[:-9])
    ones = torch.ones(5120, 1)
    names = [KEY.format("self_attn.q", half) for half in "AB"]
    save_file(dict(zip(names, (ones.T.clone(), ones), strict=True)), "wide.safetensors")
    save_file({"diffusion_model.blocks.9.ffn.0.diff_b": ones}, "other.safetensors")
    save_file({"diffusion_model.blocks.0.ffn.0.diff_b": ones[:256, 0] * torch.nan},
              "nan.safetensors")  # fmt: skip
    if changes.get("model") == "plain":
        changes = {"model": model_files("plain")}
    elif "model" in changes:
        save_file(wan_state_dict(tiny.wan(num_layers=3)), changes["model"])

    def unread(*args, **options):
        raise AssertionError("the model is read")

    monkeypatch.setattr("moga.hosts.diffusers.transformer.assemble", unread)
    before = sorted(tmp_path.iterdir())
    assert main([*line(**changes), *given]) == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert message.startswith("moga.generate: ") and "\n" not in message
    assert sorted(tmp_path.iterdir()) == before
