"""`python -m moga.train` on real files with tiny models: what it leaves, and what stops it."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moga.checkpoint import read_header
from moga.hosts.diffusers import ShotCall, load_wan, moga_config
from moga.train import main
from moga.training import stage
from moga.training.cache_jobs import fill_cache
from moga.training.checkpoints import PROGRESS, Checkpoints
from moga.training.read_settings import read_settings

CONFIG = """
seed = 3
workers = 0
[data]
rows = "rows.jsonl"
validation_rows = "rows.jsonl"
vae = "vae.safetensors"
text_encoder = "umt5.safetensors"
width = 32
height = 32
fps = 8
text_tokens = 12
dtype = "fp32"
[model]
file = "wan.safetensors"
[moga]
groups = 3
[optimizer]
precision = "no"
ema = 0.9
warmup = 2
[validation]
loss_every = 4
loss_clips = 2
[save]
every = 3
keep_last = 2
dtype = "fp32"
[[stages]]
name = "routers"
train = "routers"
steps = 4
seconds = 1
lr = 1e-2
[[stages]]
name = "full"
train = "full"
steps = 6
seconds = 2
lr = 1e-3
router_lr = 1e-2
accumulate = 2
"""
STEPS = {"routers": 4, "full": 6}
ROUTERS = "stages/00-routers.safetensors"


@pytest.fixture(autouse=True)
def new_process():
    """accelerate settles on a precision once per process; here many trainings share one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def project(files, tmp_path):
    """A folder with videos, rows, models and CONFIG."""
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "cache").unlink(missing_ok=True)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """A training that nothing disturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    for path in files.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.toml").write_text(CONFIG)
    assert train_alone(folder) == 0
    return folder


def train(project, *words):
    return main([str(project / "config.toml"), *words])


def train_alone(project, before=""):
    """Train in a process of its own, whose numbers no other test can change. Returns its code."""
    code = f"""
import sys
from moga.train import main
{before}
sys.exit(main([{str(project / "config.toml")!r}]))
"""
    return subprocess.run([sys.executable, "-c", code]).returncode


def log(project):
    """The rows of a training's log, without what a machine takes."""
    rows = map(json.loads, (project / "training" / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(project, name="model.safetensors"):
    return load_file(project / "training" / name)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def refused(project, capsys, *words):
    capsys.readouterr()
    assert train(project, *words) == 2
    return capsys.readouterr().err


# What it leaves


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
    shapes, metadata = read_header(path)
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


def test_a_lora_on_a_model_that_was_trained_is_no_adapter(project, capsys):
    words = ["--stages.0.train", "full", "--stages.1.train", "lora"]
    assert train(project, *words) == 0
    assert not (project / "training" / "adapter.safetensors").exists()
    assert "full: leaves no adapter.safetensors" in capsys.readouterr().out


@torch.no_grad()
def velocity(dit):
    make = torch.Generator().manual_seed(0)
    return dit(
        torch.randn(1, 16, 3, 4, 4, generator=make),
        torch.tensor([500.0]),
        torch.randn(1, 24, dit.config.text_dim, generator=make),
        attention_kwargs={"moga": ShotCall((0, 1), 3, ((0, 12), (12, 24)))},
    ).sample


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
    state = load_file(last / "model.safetensors")
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


# Going on


def killing_itself(after):
    """Code that ends a training, with no chance to clean up, when it has logged `after` rows."""
    return f"""
import os, signal
from moga.training.journal import Journal
add, rows = Journal.add, []
def add_and_die(journal, row):
    add(journal, row)
    rows.append(row)
    if len(rows) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = add_and_die
"""


@pytest.mark.parametrize("after", [3, 7, 12])
def test_a_killed_training_goes_on_bit_for_bit(project, trained, after):
    assert train_alone(project, killing_itself(after)) == -signal.SIGKILL
    assert not (project / "training/model.safetensors").exists()
    assert train_alone(project) == 0
    assert log(project) == log(trained)
    assert equal(weights(project), weights(trained))


def test_started_again_when_done_it_leaves_the_same(project, trained):
    shutil.copytree(trained / "training", project / "training")
    before = log(project)
    assert train(project) == 0
    assert log(project) == before
    assert equal(weights(project), weights(trained))


def test_more_steps_can_be_asked_for(project, trained):
    shutil.copytree(trained / "training", project / "training")
    assert train(project, "--stages.1.steps", "8") == 0
    rows = log(project)
    assert rows[: len(log(trained))] == log(trained)
    assert [row["step"] for row in rows if "loss" in row][-2:] == [7, 8]


def test_a_half_written_checkpoint_is_never_loaded(project, trained):
    shutil.copytree(trained / "training", project / "training")
    folder = project / "training" / "checkpoints"
    last = folder / "01-00000006"
    last.rename(folder / ".01-00000006.part")
    (folder / ".01-00000006.part" / PROGRESS).unlink()
    (folder / ".01-00000006.part" / "model.safetensors").write_bytes(b"half")
    assert train_alone(project) == 0
    assert log(project) == log(trained)
    assert equal(weights(project), weights(trained))


def test_other_settings_do_not_continue_a_training(project, trained, capsys):
    shutil.copytree(trained / "training", project / "training")
    message = refused(project, capsys, "--stages.1.lr", "5")
    assert "stages.1.lr = 0.001, now it is 5.0" in message and "another save.folder" in message


# What stops it


def test_a_loss_that_is_not_a_number(project, trained, capsys):
    shutil.copytree(trained / "cache", project / "cache", dirs_exist_ok=True)
    poison(project)
    message = refused(project, capsys)
    assert "the loss of step" in message and "is not a number" in message
    assert ".mp4, line" in message and "start again" in message
    last, _ = Checkpoints(project / "training" / "checkpoints", 2).latest()
    state = load_file(last / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def poison(project):
    """Make the long clips of the cache, which the second stage reads, not a number."""
    for path in (project / "cache" / "latents").glob("*.safetensors"):
        tensors = load_file(path)
        if tensors["latent"].shape[1] > 3:
            with safe_open(path, "pt") as file:
                header = file.metadata()
            save_file({"latent": tensors["latent"] * float("nan")}, path, header)


def test_a_gradient_that_is_not_a_number_reaches_no_checkpoint(
    project, trained, capsys, monkeypatch
):
    """In step 3 of the second stage, after which a checkpoint is due."""
    calls = itertools.count(1)
    real = stage.losses

    def losses(*words):
        found = real(*words)
        if next(calls) == STEPS["routers"] + 5:  # two forwards a step
            found.velocity.register_hook(lambda gradient: gradient * float("inf"))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(stage, "losses", losses)
        message = refused(project, capsys)
    assert "the gradient of step 3 in stage 'full' is not a number, on" in message
    assert "it goes on from step 4" in message
    last, _ = Checkpoints(project / "training" / "checkpoints", 2).latest()
    state = load_file(last / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_a_full_disk_keeps_the_last_checkpoint(project, trained):
    """The system refuses to let a file grow beyond a size: ENOSPC's sibling, EFBIG."""
    shutil.copytree(trained / "training", project / "training")
    folder = project / "training" / "checkpoints"
    shutil.rmtree(folder / "01-00000006")
    limit = (folder / "01-00000003" / "model.safetensors").stat().st_size // 2
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from moga.train import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main([{str(project / "config.toml")!r}]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert "the checkpoint of step 6 could not be written" in run.stderr
    assert "it goes on from step 3" in run.stderr
    assert [path.name for path in folder.iterdir()] == ["01-00000003"]


def test_a_full_disk_at_the_very_end(project, trained):
    shutil.copytree(trained / "training", project / "training")
    model = project / "training" / "model.safetensors"
    limit = model.stat().st_size // 2
    model.unlink()
    code = f"""
import resource, sys
from moga.train import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main([{str(project / "config.toml")!r}]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert "model.safetensors could not be written" in run.stderr
    assert "it goes on from step 6" in run.stderr
    assert not model.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.routers", "wan.safetensors"], "holds no MoGA routers"),
        (
            ["--model.routers", "file"],
            "model.routers is 'file', but wan.safetensors holds no routers",
        ),
        (["--data.width", "33"], "data.width is 33; this model needs a multiple of 16"),
        (["--data.vae", "wan.safetensors"], "is not a VAE of Wan, it looks like"),
        (["--data.text_encoder", "vae.safetensors"], "is not a UMT5 text encoder"),
        (["--model.file", "vae.safetensors"], "is not a Wan text-to-video"),
        (["--data.rows", "nothing.jsonl"], "data.rows is nothing.jsonl, which is not there"),
        (["--backend", "nothing"], "nothing"),
        (["--moga.groups", "300"], "groups is 300"),
        (["--stages.0.groups", "2"], "stage 'full' gets routers of 2 groups and moga.groups is 3"),
        (["--log.trackers", '["wandb"]'], "log.trackers names 'wandb'"),
        (["--optimizer.kind", "adamw8bit"], "which needs bitsandbytes"),
        (["--stages.0.stps", "3"], "did you mean stages.0.steps?"),
        (["--data.rows", "empty.jsonl"], "empty.jsonl holds no clips"),
        (["--data.rows", "empty.jsonl", "--check"], "empty.jsonl holds no clips"),
        (["--data.validation_rows", "empty.jsonl", "--check"], "empty.jsonl holds no clips"),
        (
            ["--stages.1.train", "lora", "--lora.targets", '["attn1.to_q", "to_z"]'],
            "lora.targets has 'to_z', which no linear layer of the model is named; did you mean",
        ),
        (
            ["--validation.scripts", '["look.txt", "sub/look.txt"]'],
            "validation.scripts has look.txt and sub/look.txt, whose films would have one name",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence_and_costs_nothing(
    project, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(project)
    (project / "empty.jsonl").touch()
    (project / "sub").mkdir()
    for script in ("look.txt", "sub/look.txt"):
        (project / script).write_text("[5f] one")
    found = refused(project, capsys, *words)
    assert found.startswith("moga.train: ") and message in found
    assert not (project / "cache").exists() and not (project / "training").exists()


def test_everything_wrong_is_told_at_once(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    (project / "bad.txt").write_text("[5x] what")
    (project / "latin.txt").write_bytes(b"[5f] \xff")
    (project / "full").write_text("a file")
    words = ["--data.rows", "no.jsonl", "--data.validation_rows", "no2.jsonl"]
    words += ["--validation.scripts", '["no.txt", "bad.txt", "latin.txt"]', "--data.vae", "no.vae"]
    words += ["--model.routers", "no.routers", "--data.text_encoder", "vae.safetensors"]
    words += ["--stages.0.groups", "300", "--backend", "no", "--log.trackers", '["wandb"]']
    words += ["--optimizer.kind", "adamw8bit", "--save.folder", "full"]
    words += ["--data.cache", "full/cache"]
    gone = "which is not there; check the path."
    wrong = refused(project, capsys, *words).removeprefix("moga.train: ").splitlines()
    for line in (
        f"data.rows is no.jsonl, {gone}",
        f"data.validation_rows is no2.jsonl, {gone}",
        f"validation.scripts.0 is no.txt, {gone}",
        "validation.scripts.2: latin.txt is not text in UTF-8; save it as such.",
        "save.folder is full, but full is a file; choose another folder.",
        f"data.cache is full/cache, but {project}/full is a file; choose another folder.",
        f"data.vae is no.vae, {gone}",
        f"model.routers is no.routers, {gone}",
        "log.trackers names 'wandb'; install it, or leave it out.",
    ):
        wrong.remove(line)
    starts = ("validation.scripts.1: script line 1", "stage 'routers': groups is 300", "backend",
              "optimizer.kind is 'adamw8bit'", "vae.safetensors is not a UMT5")  # fmt: skip
    assert [any(line.startswith(s) for line in wrong) for s in starts] == [True] * 5, wrong
    assert len(wrong) == 5
    assert not (project / "cache").exists()


def test_sizes_are_told_together_with_what_does_not_belong(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    words = ["--data.width", "33", "--data.height", "30", "--model.file", "no", "--model.routers"]
    (line,) = refused(project, capsys, *words, "random").splitlines()
    assert line == "moga.train: model.file is no, which is not there; check the path."
    wrong = refused(project, capsys, *words[:4]).splitlines()
    assert [line.split(";")[0].split()[-3] for line in wrong] == ["data.width", "data.height"]


def test_routers_that_send_all_to_one_group(project, trained, capsys):
    routers = load_file(trained / "training" / "routers.safetensors")
    with safe_open(trained / "training" / "routers.safetensors", "pt") as file:
        header = file.metadata()
    path = project / "zero.safetensors"
    save_file({key: torch.zeros_like(tensor) for key, tensor in routers.items()}, path, header)
    assert "all zero" in refused(project, capsys, "--model.routers", str(path))
    assert "routers of 3 groups and moga.groups is 4" in refused(
        project, capsys, "--moga.groups", "4", "--model.routers",
        str(trained / "training" / "routers.safetensors"),
    )  # fmt: skip


def test_a_text_that_is_too_long(project, capsys):
    message = refused(project, capsys, "--data.text_tokens", "3")
    assert "tokens and data.text_tokens is 3 (square" in message
    assert not (project / "training").exists()


def test_check_says_what_would_be_trained(project, capsys):
    assert train(project, "--check") == 0
    said = capsys.readouterr().out
    assert "stage full: 6 steps of 2 clips up to 2 s, trains full" in said
    assert not (project / "training").exists() and not (project / "cache").exists()


def test_cache_only(project):
    assert train(project, "--cache-only") == 0
    assert (project / "cache").exists() and not (project / "training" / "log.jsonl").exists()


def test_caching_is_not_bound_to_a_checkpoint(project, trained):
    shutil.copytree(trained / "training", project / "training")
    shutil.copy(project / "rows.jsonl", project / "part.jsonl")
    assert train(project, "--cache-only", "--data.rows", str(project / "part.jsonl")) == 0
    assert train(project, "--data.rows", str(project / "part.jsonl")) == 2


def test_several_processes_cache_what_one_does(project, trained, capsys):
    fill_cache(read_settings(project / "config.toml"), 2)
    assert cached(project) == cached(trained)
    assert train(project, "--cache-only", "--jobs", "2") == 0
    assert cached(project) == cached(trained)
    index = [[p.read_text() for p in (x / "cache").glob("index-*")] for x in (project, trained)]
    assert index[0] == index[1] != []
    assert "--jobs is 2; give 1 or more" in refused(project, capsys, "--jobs", "2")
    assert "--jobs is 0; give 1 or more" in refused(project, capsys, "--jobs", "0", "--cache-only")


def cached(project):
    """What is in a cache, by the names of its files."""
    cache = project / "cache"
    texts = {path.name: path.read_bytes() for path in (cache / "texts").iterdir()}
    latents = {path.name: load_file(path)["latent"] for path in (cache / "latents").iterdir()}
    return texts, {name: latent.numpy().tobytes() for name, latent in latents.items()}


def test_what_is_wrong_with_a_clip_is_said_by_line(project, capsys):
    rows = (project / "rows.jsonl").read_text().splitlines()
    rows[1] = rows[1].replace("1.mp4", "vae.safetensors")
    (project / "rows.jsonl").unlink()
    (project / "rows.jsonl").write_text("\n".join(rows))
    assert "line 2, vae.safetensors: ffmpeg" in refused(
        project, capsys, "--cache-only", "--jobs", "2"
    )


# Several processes


def launch(project, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "moga.train", str(project / "config.toml"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_is_wrong_with_rows_is_said_by_every_process(project):
    (project / "rows.jsonl").unlink()
    row = {"video": "nothing.mp4", "shots": [{"start": 0, "caption": "x"}]}
    (project / "rows.jsonl").write_text(json.dumps(row))
    run = launch(project)
    assert run.returncode != 0 and "[rank1]" not in run.stderr
    assert run.stderr.count('moga.train: rows.jsonl, line 1: video is "nothing.mp4"') == 2


def test_two_processes_train_as_one_that_accumulates(project, tmp_path_factory, files, capsys):
    alone = tmp_path_factory.mktemp("alone")
    for path in files.iterdir():
        (alone / path.name).symlink_to(path)
    (alone / "config.toml").write_text(CONFIG)
    assert train(alone, "--stages.0.accumulate", "2") == 0
    run = launch(project, "--stages.1.accumulate", "1")
    assert run.returncode == 0, run.stderr
    assert len(list((project / "training/checkpoints/01-00000006").glob("ema-*"))) == 1
    about = json.loads((project / "training" / "settings.json").read_text())
    assert about["processes"] == 2
    one, two = (load_wan(p / "training" / "model.safetensors") for p in (alone, project))
    torch.testing.assert_close(velocity(two), velocity(one), rtol=1e-3, atol=1e-4)
    for a, b in zip(log(alone), log(project), strict=True):
        if "loss" in a:
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    message = refused(project, capsys, "--stages.1.accumulate", "1")
    assert "processes = 2, now it is 1" in message
