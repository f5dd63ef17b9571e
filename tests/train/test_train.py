"""`python -m moga.train` on real files with tiny models: what it leaves."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_runs import STEPS, kept, log, train, velocity, weights

from moga.checkpoint import read_header, write
from moga.config import MoGAConfig
from moga.generate import main as generate
from moga.hosts.diffusers import load_wan, moga_config
from moga.train.checkpoints import Checkpoints

ROUTERS = "stages/00-routers.safetensors"


def test_every_step_is_logged_with_what_the_routers_do(trained):
    rows = [row for row in log(trained) if "loss" in row]
    assert [(r["stage"], r["step"]) for r in rows] == [
        (stage, step + 1) for stage, n in enumerate(STEPS.values()) for step in range(n)
    ]
    for row in rows:
        assert len(row["load_max"]) == len(row["gate"]) == 2  # layers
        assert all(1 / 3 <= share <= 1 for share in row["load_max"])
        assert row["router_grad_norm"] > 0 and row["balance"] > 0
    assert [r["lr"] for r in rows[:4]] == pytest.approx([0, 5e-3, 1e-2, 1e-2])
    looks = [row for row in log(trained) if "validation" in row]
    assert [(r["stage"], r["step"]) for r in looks] == [(0, 0), (0, 4), (1, 0), (1, 4)]
    # The same model, on the longer clips of the next stage.
    assert looks[1]["validation"] != pytest.approx(looks[2]["validation"], rel=1e-6)
    assert all("dense" in row for row in looks if row["step"] == 0)


def test_the_model_is_one_file_that_both_hosts_load(trained):
    path = trained / "training" / "model.safetensors"
    shapes, _, metadata = read_header(path)
    assert shapes["blocks.1.self_attn.router.weight"] == (3, 128)
    assert shapes["blocks.0.self_attn.q.weight"] == (128, 128)
    assert json.loads(metadata["moga"])["groups"] == 3
    about = json.loads(metadata["moga_training"])
    assert about["settings"]["seed"] == 3 and about["revision"].startswith("moga ")
    assert moga_config(load_wan(path)).groups == 3
    saved = json.loads((trained / "training" / "settings.json").read_text())
    assert saved["settings"]["stages"][1]["steps"] == 6 and saved["revision"]


def test_a_router_file_goes_on_the_model_it_belongs_to(trained):
    whole = trained / "training" / "model.safetensors"
    routers = load_wan(
        trained / "wan.safetensors", routers=trained / "training/routers.safetensors"
    )
    expected = load_wan(whole)
    assert moga_config(routers) == moga_config(expected)
    pairs = zip(routers.named_parameters(), expected.named_parameters(), strict=True)
    same = {name: torch.equal(a, b) for (name, a), (_, b) in pairs}
    assert all(same[name] for name in same if ".router." in name)


def test_a_stage_trains_what_it_says(trained):
    before = load_file(trained / "wan.safetensors")
    between = weights(trained, ROUTERS)
    after = weights(trained)
    assert all(torch.equal(before[k], between[k]) for k in before)
    moved = {k for k in between if not torch.equal(between[k], after[k])}
    assert {"blocks.0.self_attn.q.weight", "blocks.1.self_attn.router.bias", "head.head.weight",
            "blocks.0.ffn.0.weight", "text_embedding.0.weight"} <= moved  # fmt: skip


def test_checkpoints_are_thinned_out(trained):
    names = [path.name for path in Checkpoints(trained / "training/checkpoints", 2).all()]
    assert names == ["01-00000003", "01-00000006"]


def test_the_average_lags_behind(project, trained):
    assert train(project, "--optimizer.ema", "0") == 0
    start = load_file(project / "wan.safetensors")["blocks.0.self_attn.q.weight"]
    key = "blocks.0.self_attn.q.weight"
    far, near = (weights(p)[key].sub(start).norm() for p in (project, trained))
    assert 0 < near < far


@pytest.mark.parametrize("first", ["routers", "lora"])
def test_lora_stages_leave_adapter_and_merged_model(project, first):
    words = ["--stages.0.train", first, "--stages.1.train", "lora"]
    words += ["--lora.rank", "4", "--lora.alpha", "8"]
    assert train(project, *words) == 0
    folder = project / "training"
    adapter = load_file(folder / "adapter.safetensors")
    assert any(k.startswith("diffusion_model.blocks.0.self_attn.q.lora_A") for k in adapter)
    with safe_open(folder / "adapter.safetensors", "pt") as file:
        assert json.loads(file.metadata()["moga"])["groups"] == 3
    merged = load_wan(folder / "model.safetensors")
    beside = load_wan(project / "wan.safetensors", routers=folder / "adapter.safetensors")
    plain = load_wan(project / "wan.safetensors", routers=folder / "routers.safetensors")
    found = [velocity(dit) for dit in (merged, beside, plain)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[2], rtol=1e-4, atol=1e-5)


def test_an_adapter_makes_the_film_of_the_merged_model(project):
    """On the model that the training began with, and on one that has other routers already."""
    words = ["--stages.1.train", "lora", "--lora.rank", "4", "--lora.alpha", "8"]
    assert train(project, *words) == 0
    (project / "story.txt").write_text("[5f] a square\n[4f] close-up\n")
    folder, base = project / "training", project / "wan.safetensors"
    other = project / "other.safetensors"
    routers = {k: -t for k, t in load_file(folder / "routers.safetensors").items()}
    write(other, {**load_file(base), **routers}, MoGAConfig(groups=3))
    lora = ["--lora", str(folder / "adapter.safetensors")]

    def film(name, model, *more):
        out = project / f"{name}.mp4"
        files = {
            "script": project / "story.txt",
            "model": model,
            "out": out,
            "vae": project / "vae.safetensors",
            "text-encoder": project / "umt5.safetensors",
        }
        words = [word for flag, path in files.items() for word in (f"--{flag}", str(path))]
        size = ["--size", "32x32", "--steps", "4", "--cfg", "1", "--dtype", "fp32"]
        assert generate([*words, *size, "--device", "cpu", *more]) == 0
        return load_file(out.with_suffix(".latents.safetensors"))["latents"]

    expected = film("merged", folder / "model.safetensors")
    for name, model in (("base", base), ("other", other)):
        torch.testing.assert_close(film(name, model, *lora), expected, rtol=1e-4, atol=1e-5)
    without = film("without", base, "--routers", str(folder / "routers.safetensors"))
    assert not torch.allclose(without, expected, rtol=1e-4, atol=1e-5)


def test_a_lora_on_a_model_that_was_trained_is_no_adapter(project, capsys):
    words = ["--stages.0.train", "full", "--stages.1.train", "lora"]
    assert train(project, *words) == 0
    assert not (project / "training" / "adapter.safetensors").exists()
    assert "full: leaves no adapter.safetensors" in capsys.readouterr().out


def test_a_dense_training_has_no_routers(project):
    words = ["--model.attention", "dense", "--stages.0.train", "full"]
    assert train(project, *words) == 0
    assert not any("router" in key for key in weights(project))
    assert all("balance" not in row for row in log(project))


def test_a_new_model_from_sizes(project):
    text = (project / "config.toml").read_text().replace('file = "wan.safetensors"', "")
    (project / "config.toml").write_text(text)
    sizes = {"heads": 1, "layers": 1, "ffn": 64, "text": 32}
    words = [w for k, v in sizes.items() for w in (f"--model.scratch.{k}", str(v))]
    assert train(project, *words) == 0
    assert load_wan(project / "training/model.safetensors").config.num_layers == 1


def test_films_on_the_way(project):
    (project / "look.txt").write_text("[5f] one\n[4f] two")
    words = ["--validation.every", "3", "--validation.scripts", f'["{project}/look.txt"]']
    cut_off = project / "training/films/00-00000003-look.partial.mp4"
    cut_off.parent.mkdir(parents=True)
    cut_off.touch()  # as a training that was killed leaves it, and that does the step again
    assert train(project, *words, "--validation.steps", "2") == 0
    films = sorted(path.name for path in (project / "training/films").iterdir())
    assert films == ["00-00000003-look.mp4", "01-00000003-look.mp4", "01-00000006-look.mp4"]


def test_half_precision_keeps_routers_and_trained_weights_wide(project):
    words = ["--optimizer.precision", "bf16", "--optimizer.ema", "0", "--save.dtype", "bf16"]
    assert train(project, *words) == 0
    found = weights(project)
    assert found["blocks.0.self_attn.q.weight"].dtype == torch.bfloat16
    assert found["blocks.0.self_attn.router.weight"].dtype == torch.float32
    last, _ = Checkpoints(project / "training" / "checkpoints", 2).latest()
    state = kept(last)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(row["loss"] < 10 for row in log(project) if "loss" in row)
    # The first stage ran on rounded copies of what it does not train, and leaves what it was given.
    before, between = load_file(project / "wan.safetensors"), weights(project, ROUTERS)
    assert all(torch.equal(before[key], between[key]) for key in before)


def test_tensorboard_gets_the_numbers(project):
    pytest.importorskip("tensorboard")
    assert train(project, "--log.trackers", '["tensorboard"]') == 0
    assert list((project / "training").rglob("events.out.tfevents.*"))


def test_another_number_of_groups_in_a_later_stage(project):
    assert train(project, "--stages.1.groups", "2") == 0
    assert weights(project)["blocks.0.self_attn.router.weight"].shape == (2, 128)
