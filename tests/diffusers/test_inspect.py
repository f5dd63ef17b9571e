"""`python -m moga.inspect`: its numbers are those of the layers that run, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moga.config import MoGAConfig
from moga.diagnostics import Observer, Request
from moga.diagnostics.layer import sample_layer
from moga.hosts.diffusers import (
    ShotCall,
    enable_moga,
    load_wan,
    moga_routers,
    run_at_levels,
    watch_attention,
)
from moga.inspect import main
from moga.layout import VideoLayout
from moga.routing import Routing, random_routers, route


@pytest.fixture
def ask(line, tmp_path):
    """A command line that works, with options changed, added, or left out (None).

    Its script has two shots, 3 latent frames of 2 x 3 tokens.
    """

    def ask(**changes):
        return line(**{"out": tmp_path / "seen.png", "noise": "0.8,0.2", **changes})

    return ask


def found(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_script_is_sampled_and_then_inspected(ask, tmp_path, capsys):
    assert main(ask()) == 0
    said = capsys.readouterr().out
    assert "What routing does in t2v.safetensors" in said and "18 of each block (all there" in said
    assert f"wrote {tmp_path / 'seen.png'}, {tmp_path / 'seen.txt'}" in said
    assert Image.open(tmp_path / "seen.png").size[0] == 1600
    numbers = found(tmp_path / "seen.json")
    assert [(c["noise"], c["block"]) for c in numbers["cells"]] == [
        *((0.8, 0), (0.8, 1), (0.2, 0), (0.2, 1)),
    ]
    assert numbers["latent"]["shots"] == [0, 2] and not numbers["random_routers"]
    table = (tmp_path / "seen.txt").read_text(encoding="utf-8")
    assert table.strip() in said
    # And what it sampled can be looked at again, with the same result.
    latents = tmp_path / "seen.latents.safetensors"
    again = {"latents": latents, "out": tmp_path / "again.png", "cfg": 7}
    assert main(ask(**again)) == 0
    assert found(tmp_path / "again.json")["cells"] == numbers["cells"]
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "seen.png").read_bytes()
    assert not (tmp_path / "again.latents.safetensors").exists()


def test_what_if_with_a_plain_model(ask, model_files, tmp_path, capsys):
    plain = {"model": model_files("plain"), "attention": "dense"}
    assert main(ask(**plain, groups=3, windows="1x2", blocks="1")) == 0
    assert "What routing would do in plain.safetensors: random routers of seed 0" in (
        capsys.readouterr().out
    )
    numbers = found(tmp_path / "seen.json")
    assert numbers["config"]["groups"] == 3 and numbers["config"]["windows"] == [1, 2]
    assert {c["block"] for c in numbers["cells"]} == {1} and numbers["random_routers"]
    one = {"latents": tmp_path / "seen.latents.safetensors", "out": tmp_path / "one.png"}
    assert main(ask(**plain, **one, groups=1)) == 0
    for cell in found(tmp_path / "one.json")["cells"]:
        assert cell["error"] < 1e-5 and cell["recall"] == pytest.approx(1)
        assert cell["density"] == 1 and cell["sizes"] == [18]


@pytest.mark.parametrize("dense", [False, True])
def test_the_numbers_are_those_of_the_layer_as_it_runs(tiny, monkeypatch, dense):
    """x, q, k and v taken elsewhere: from the modules' own hooks and from diffusers' dispatch."""
    model, config = tiny.wan(), MoGAConfig()
    enable_moga(model, None if dense else config, None if dense else "random")
    weights = random_routers(256, 5, 2, 0)
    if not dense:
        for block, own in moga_routers(model).items():
            assert torch.equal(own["weight"], weights[block]["weight"])
    attended, inputs = [], []
    name = "diffusers.models.transformers.transformer_wan.dispatch_attention_fn"
    target = name if dense else "moga.hosts.diffusers.processors.moga_attention"
    module = __import__(target.rpartition(".")[0], fromlist=["x"])
    real = getattr(module, target.rpartition(".")[2])

    def keep(q, k, v, *rest, **kw):
        if q.shape[1] == k.shape[1] == 75:
            attended.append((q, k, v))
        return real(q, k, v, *rest, **kw)

    monkeypatch.setattr(module, target.rpartition(".")[2], keep)
    for block in model.blocks:
        block.attn1.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    request = Request.parse("0.5", "", 2, 4000, 0)
    observer = Observer(request, config, weights)
    observer.begin(0.5)
    call = tiny.call()
    with torch.no_grad(), watch_attention(model, observer.see):
        out = model(**call, attention_kwargs={"moga": ShotCall((0, 2))}).sample
    with torch.no_grad():
        assert torch.equal(out, model(**call, attention_kwargs={"moga": ShotCall((0, 2))}).sample)
    assert len(attended) == 4
    layout = VideoLayout(5, 3, 5, (0, 2))
    for cell, x, (q, k, v) in zip(observer.result().cells, inputs, attended, strict=False):
        router = weights[cell.block]
        routing = route(
            x, lambda part, r=router: torch.nn.functional.linear(part, r["weight"], r["bias"])
        )
        exact = sample_layer(q[0], k[0], v[0], torch.arange(75), routing, layout, config)
        assert cell.error == pytest.approx(exact.error, rel=1e-5) and cell.error > 1e-4
        assert cell.recall == pytest.approx(float(exact.recall.mean()), rel=1e-5)
        assert cell.sizes == tuple(routing.sizes()[0].tolist())


def test_the_transformer_sees_the_latents_with_that_much_noise(ask, tmp_path, monkeypatch):
    import moga.inspect.run as run

    seen = []

    def keep(pipe, *given, **options):
        handle = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(
                (kwargs["hidden_states"].clone(), float(kwargs["timestep"].max()))
            ),
            with_kwargs=True,
        )
        scheduler = pipe.scheduler
        try:
            run_at_levels(pipe, *given, **options)
        finally:
            handle.remove()
        assert pipe.scheduler is scheduler

    monkeypatch.setattr(run, "run_at_levels", keep)
    assert main(ask(noise="0, 1, 0.25", seed=3)) == 0
    film = load_file(tmp_path / "seen.latents.safetensors")["latents"]
    noise = torch.randn(film.shape, generator=torch.Generator().manual_seed(3))
    assert [time for _, time in seen] == [1000, 250, 0]
    for level, (latents, _) in zip((1, 0.25, 0), seen, strict=True):
        torch.testing.assert_close(latents, (1 - level) * film + level * noise)


@pytest.mark.parametrize(("model", "vae", "size"), [
    ("i2v_2.2", "vae", "48x32"),
    ("ti2v", "vae22", "96x64"),
])  # fmt: skip
def test_image_to_video(ask, model_files, tmp_path, model, vae, size):
    image = tmp_path / "first.png"
    Image.effect_noise((60, 40), 80).save(image)
    files = {"model": model_files(model), "vae": model_files(vae), "image": image, "size": size}
    assert main(ask(**files)) == 0
    assert len(found(tmp_path / "seen.json")["cells"]) == 4


def refused(capsys, arguments, status=2):
    assert main(arguments) == status
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("moga.inspect: ") and said.endswith(".")
    return said.removeprefix("moga.inspect: ")


BAD = {
    "noise": ({"noise": "1.5"}, "noise_levels has '1.5'; give numbers from 0"),
    "blocks": ({"blocks": "0,7"}, "blocks has '7'; give block numbers from 0 to 1"),
    "queries": ({"queries": "0"}, "queries is 0; give a whole number from 1 to 4096"),
    "groups of a model": ({"groups": 3}, "--groups and --windows are of random routers; leave"),
    "windows": ({"attention": "dense", "windows": "2"}, "--windows is '2'; give rows and columns"),
    "many groups": ({"attention": "dense", "groups": 10}, "the latent has 18 tokens, too few for"),
    "no model": ({"model": None, "latents": "x"}, "give --model with one file"),
    "sheet": ({"contact_sheet": "x.png"}, "--contact-sheet is of moga.generate; leave it out"),
    "out": ({"out": "film.mp4"}, "--out is 'film.mp4'; give a name that ends in .png"),
    "folder": ({"out": "gone/a.png"}, "--out names a folder that is not there (gone)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(ask, capsys, name):
    changes, said = BAD[name]
    assert refused(capsys, ask(**changes)).startswith(said)


def test_a_model_without_routers(ask, model_files, capsys):
    said = refused(capsys, ask(model=model_files("plain")))
    assert "holds no MoGA routers; give --routers FILE, or --attention dense" in said


def test_two_experts(ask, model_files, capsys):
    both = {"model": None, "model_high": model_files("t2v"), "model_low": model_files("low")}
    assert refused(capsys, ask(**both)).startswith("give --model with one file; of two experts")


def test_nothing_is_overwritten(ask, tmp_path, capsys):
    (tmp_path / "seen.json").write_text("mine")
    assert refused(capsys, ask()).startswith(f"{tmp_path / 'seen.json'} exists already; choose")


def test_latents_of_another_size(ask, tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    for shape, value in (((1, 48, 3, 4, 6), 0.0), ((1, 16, 3, 4, 6), float("nan"))):
        save_file({"latents": torch.full(shape, value)}, path)
        said = refused(capsys, ask(latents=path))
        words = "has the shape (1, 48, 3, 4, 6)" if value == 0 else "values that aren't numbers"
        assert words in said


def test_states_that_are_not_numbers_are_named(ask, model_files, tmp_path, capsys):
    from safetensors import safe_open

    with safe_open(model_files("t2v"), "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = file.metadata()
    weights["blocks.1.self_attn.v.weight"] = torch.full((256, 256), float("inf"))
    save_file(weights, tmp_path / "broken.safetensors", header)
    latents = tmp_path / "latents.safetensors"
    save_file({"latents": torch.randn(1, 16, 3, 4, 6)}, latents)
    broken = {"model": tmp_path / "broken.safetensors", "latents": latents}
    said = refused(capsys, ask(**broken), 1)
    assert said.startswith("block 1 has values that aren't numbers (NaN or infinite) in v at noise")
    assert not (tmp_path / "seen.png").exists()


def test_a_plan_says_what_and_stops(ask, tmp_path, capsys):
    assert main(ask(plan=True)) == 0
    said = capsys.readouterr().out
    assert (
        "measured  2 blocks at noise levels 0.8, 0.2" in said and "latents   sampled first" in said
    )
    assert not list(tmp_path.glob("seen*"))


def test_one_frame_is_refused(ask, tmp_path, save_text, capsys):
    script = tmp_path / "one.txt"
    script.write_text("[1f] a woman\n")
    save_text(tmp_path / "one.safetensors", torch.randn(1, 9, 64), torch.randn(1, 9, 64))
    said = refused(
        capsys, ask(script=script, embeddings=tmp_path / "one.safetensors", size="96x64")
    )
    assert "in one latent frame, which every token sees whole" in said


def test_the_same_weights_by_the_door_of_load_wan(model_files):
    """Routing that the observer works out is the layer's own."""
    model = load_wan(Path(model_files("t2v")))
    x = torch.randn(1, 75, 256)
    for block, weights in moga_routers(model).items():
        own = model.blocks[block].attn1.router(x)
        scores = torch.nn.functional.linear(x, weights["weight"], weights["bias"])
        assert torch.equal(own.group, Routing.from_scores(scores).group)
