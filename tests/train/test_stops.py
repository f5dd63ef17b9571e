"""What stops `python -m moga.train`, and what is said then."""

import itertools
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import STEPS, kept, refused, train

from moga.train import learner
from moga.train.checkpoints import Checkpoints
from moga.video.ffmpeg import find_ffmpeg


def test_a_loss_that_is_not_a_number(project, trained, capsys):
    shutil.copytree(trained / "cache", project / "cache", dirs_exist_ok=True)
    poison(project)
    message = refused(project, capsys)
    assert "the loss of step" in message and "is not a number" in message
    assert ".mp4, line" in message and "start again" in message
    last, _ = Checkpoints(project / "training" / "checkpoints", 2).latest()
    state = kept(last)
    assert state and all(torch.isfinite(tensor).all() for tensor in state.values())


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
    real = learner.losses

    def losses(*words):
        found = real(*words)
        if next(calls) == STEPS["routers"] + 5:  # two forwards a step
            found.velocity.register_hook(lambda gradient: gradient * float("inf"))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(learner, "losses", losses)
        message = refused(project, capsys)
    assert "the gradient of step 3 in stage 'full' is not a number, on" in message
    assert "it goes on from step 4" in message
    last, _ = Checkpoints(project / "training" / "checkpoints", 2).latest()
    state = kept(last)
    assert state and all(torch.isfinite(tensor).all() for tensor in state.values())


def refused_with_files_of_at_most(size, project):
    """What is said when the system lets no file grow beyond a size: ENOSPC's sibling, EFBIG."""
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from moga.train import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
sys.exit(main([{str(project / "config.toml")!r}]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    return run.stderr


def test_a_full_disk_keeps_the_last_checkpoint(project, trained):
    shutil.copytree(trained / "training", project / "training")
    folder = project / "training" / "checkpoints"
    shutil.rmtree(folder / "01-00000006")
    limit = (folder / "01-00000003" / "state" / "__0_0.distcp").stat().st_size // 2
    said = refused_with_files_of_at_most(limit, project)
    assert "the checkpoint of step 6 could not be written" in said
    assert "it goes on from step 3" in said
    assert [path.name for path in folder.iterdir()] == ["01-00000003"]


def test_a_checkpoint_that_not_all_machines_see(project, trained, capsys, monkeypatch):
    """Another machine's part of it is on a disk of that machine."""
    shutil.copytree(trained / "training", project / "training")
    shutil.rmtree(project / "training/checkpoints/01-00000006")
    real = learner.write_state

    def write_elsewhere(folder, state):
        real(folder, state)
        (folder / "state" / "__0_0.distcp").unlink()

    with monkeypatch.context() as patched:
        patched.setattr(learner, "write_state", write_elsewhere)
        said = refused(project, capsys)
    assert "checkpoints is not on a disk that all machines of this training share: __0_0.di" in said
    assert [p.name for p in Checkpoints(project / "training/checkpoints", 2).all()] == [
        "01-00000003"
    ]


def test_a_full_disk_at_the_very_end(project, trained):
    shutil.copytree(trained / "training", project / "training")
    model = project / "training" / "model.safetensors"
    limit = model.stat().st_size // 2
    model.unlink()
    said = refused_with_files_of_at_most(limit, project)
    assert "model.safetensors could not be written" in said
    assert "it goes on from step 6" in said
    assert not model.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.routers", "wan.safetensors"], "holds no MoGA routers"),
        (
            ["--model.routers", "file"],
            "model.routers is 'file', but wan.safetensors holds no routers",
        ),
        (["--data.width", "33"], "data.width is 33; give a multiple of 16, such as 32"),
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


@pytest.mark.parametrize("words", [(), ("--check",)])
def test_a_save_folder_that_cannot_be_written(project, capsys, words):
    """Below /proc not even root can make anything."""
    for name in ("save.folder", "data.cache"):
        said = refused(project, capsys, f"--{name}", "/proc/training", *words)
        assert said.startswith(f"moga.train: {name} is /proc/training, which cannot be written (")
        assert "choose another folder." in said
    assert not (project / "cache").exists() and not (project / "training").exists()


def test_a_log_that_cannot_be_written(project, trained, capsys):
    """Only parts of the folder are as they should be."""
    for part in ("training", "cache"):
        shutil.copytree(trained / part, project / part)
    (project / "training" / "log.jsonl").unlink()
    (project / "training" / "log.jsonl").mkdir()
    said = refused(project, capsys)
    assert f"{project}/training/log" in said and "cannot be written (Is a directory)" in said
    (project / "training" / "log.jsonl").rmdir()
    shutil.rmtree(project / "training" / "checkpoints")
    (project / "training" / "checkpoints").write_text("in the way")
    said = refused(project, capsys)
    assert "checkpoints cannot be written (" in said and "see that the disk has room" in said


@pytest.mark.parametrize("words", [(), ("--check",), ("--cache-only",)])
@pytest.mark.parametrize("kind", ["gone", "no program", "fails"])
def test_ffmpeg_that_does_not_run(project, capsys, monkeypatch, kind, words):
    program = project / "ffmpeg"
    if kind != "gone":
        program.write_text("#!/bin/sh\nexit 3\n")
        program.chmod(0o755 if kind == "fails" else 0o644)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    said = refused(project, capsys, *words)
    assert said.startswith("moga.train: clips are read by ffmpeg, which does not run (")
    assert "pip install --force-reinstall imageio-ffmpeg" in said
    assert not (project / "cache").exists() and not (project / "training").exists()


def test_ffmpeg_that_is_not_installed(project):
    code = f"""
import sys
sys.modules["imageio_ffmpeg"] = None
from moga.train import main
sys.exit(main([{str(project / "config.toml")!r}, "--check"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2
    assert "clips are read by ffmpeg, which imageio-ffmpeg brings and is not" in run.stderr
    assert "ComfyUI" not in run.stderr and "Traceback" not in run.stderr


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
    said = refused(
        project, capsys, "--moga.combine", "mean", "--model.routers",
        str(trained / "training" / "routers.safetensors"),
    )  # fmt: skip
    assert "was trained with combine 'union', and moga.combine is 'mean'; set it to 'uni" in said


def test_a_text_that_is_too_long(project, capsys):
    for words in ((), ("--check",), ("--cache-only", "--jobs", "2")):
        message = refused(project, capsys, "--data.text_tokens", "3", *words)
        assert "line 1, 0.mp4: shot 1, with the global text, has " in message
        assert "line 3, 2.mp4: shot 2" in message
        assert "tokens and 3 are read (square" in message and "raise data.text_tokens" in message
        assert not (project / "training").exists() and not (project / "cache").exists()
    (project / "film.txt").write_text("[5f] " + "a square " * 20)
    looks = ["--validation.every", "3", "--validation.scripts", f'["{project}/film.txt"]']
    assert "a text of validation's films has" in refused(project, capsys, *looks)


def test_a_shot_in_a_tail_that_is_left_out(project):
    """A video's last piece is left out when it is short, and a shot may lie in it alone."""
    row = json.loads((project / "rows.jsonl").read_text().splitlines()[1])  # 21 frames
    row["shots"].append({"start": 17 / 8, "caption": "left out"})
    (project / "rows.jsonl").unlink()
    (project / "rows.jsonl").write_text(json.dumps(row))
    seconds = ["--stages.0.seconds", "2.2", "--stages.1.seconds", "2.2"]  # 17 frames
    assert train(project, "--cache-only", *seconds) == 0
    assert train(project, "--stages.1.steps", "1", "--stages.0.steps", "1", *seconds) == 0


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
    for _ in range(2):
        assert train(project, "--cache-only", "--jobs", "2") == 0
        assert cached(project) == cached(trained)
    assert "--jobs is 2; give 1 or more" in refused(project, capsys, "--jobs", "2")
    assert "--jobs is 0; give 1 or more" in refused(project, capsys, "--jobs", "0", "--cache-only")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_video_is_examined_once(project, monkeypatch, jobs):
    """By a look at its packets, however many processes encode it."""
    config = (project / "config.toml").read_text()
    config = config.replace('validation_rows = "rows.jsonl"\n', "").replace("loss_every = 4\n", "")
    (project / "config.toml").write_text(config)
    calls, program = project / "calls", project / "ffmpeg"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\nexec "{find_ffmpeg()}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    assert train(project, "--cache-only", "--jobs", jobs) == 0
    lines = calls.read_text().splitlines()
    examined = [line for line in lines if "-f framecrc" in line]
    assert len(examined) == len(set(examined)) == 3
    assert len(lines) > 3  # those that encode ask the same program


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
