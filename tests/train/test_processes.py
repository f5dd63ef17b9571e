"""A training in several processes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import equal, furnish, kept, log, refused, train, velocity, weights

from moga.hosts.diffusers import load_wan
from moga.train.folders import alone_in
from moga.train.workspace import Workspace

FSDP_ON_CPU = Path(__file__).with_name("fsdp_on_cpu.py")
# What the first of them says when another one ends it.
OTHERS = r"moga\.train: (ended by its launcher|another process of this training has ended)"
FAULTY = """
import os, runpy
from moga.train.learner import Learner

if os.environ["RANK"] == "1":
    Learner._forward_backward = lambda *_: 1 / 0
runpy.run_module("moga.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def alone(files, tmp_path_factory):
    """Makes what one process trains that accumulates, with further words."""

    def make(words=lambda folder: ()):
        folder = furnish(tmp_path_factory.mktemp("alone"), files)
        assert train(folder, "--stages.0.accumulate", "2", *words(folder)) == 0
        return folder

    return make


def start(project, *words, sharded=False, program=("-m", "moga.train")):
    """A training in two processes, with weights in each or split (FSDP) over both."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if sharded:
        command = ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
        command += ["--num_processes", "2", str(FSDP_ON_CPU)]
    else:
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += program
    command += [str(project / "config.toml"), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def launch(project, *words, sharded=False):
    """The same, once it has ended."""
    run = start(project, *words, sharded=sharded)
    out, err = run.communicate()
    return subprocess.CompletedProcess(run.args, run.returncode, out, err)


def test_what_is_wrong_with_rows_is_said_once(project):
    (project / "rows.jsonl").unlink()
    row = {"video": "nothing.mp4", "shots": [{"start": 0, "caption": "x"}]}
    (project / "rows.jsonl").write_text(json.dumps(row))
    run = launch(project)
    assert run.returncode != 0 and "[rank1]" not in run.stderr
    assert run.stderr.count('moga.train: rows.jsonl, line 1: video is "nothing.mp4"') == 1


def test_two_processes_train_as_one_that_accumulates(project, alone, capsys):
    """And films that cannot be written, by the one that writes, stop neither."""
    alone = alone()
    block_films(project)
    run = launch(project, "--stages.1.accumulate", "1", *looking(project))
    assert run.returncode == 0, run.stderr
    assert failed(project) == [(0, 3), (1, 3), (1, 6)]
    assert set(kept(project / "training/checkpoints/01-00000006", "ema."))
    about = json.loads((project / "training" / "settings.json").read_text())
    assert about["processes"] == 2
    one, two = (load_wan(p / "training" / "model.safetensors") for p in (alone, project))
    torch.testing.assert_close(velocity(two), velocity(one), rtol=1e-3, atol=1e-4)
    losses = [[row["loss"] for row in log(p) if "loss" in row] for p in (alone, project)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    message = refused(project, capsys, "--stages.1.accumulate", "1")
    assert "2 forwards to a step in stage 'routers', now it is 1" in message
    assert "set stages.0.forwards to 2 and stages.1.forwards to 2, which is for any" in message


def looking(folder):
    """Words that let much happen between steps."""
    (folder / "film.txt").write_text("[5f] one\n[4f] two")
    words = ["--validation.scripts", f'["{folder}/film.txt"]', "--validation.every", "3"]
    return [*words, "--validation.steps", "2", "--validation.loss_every", "1"]


def block_films(folder):
    """Let nothing be written where films go."""
    shutil.rmtree(folder / "training" / "films", ignore_errors=True)
    (folder / "training").mkdir(exist_ok=True)
    (folder / "training" / "films").write_text("in the way")


def failed(folder):
    """Stage and step of the films that were left out."""
    rows = [row for row in log(folder) if "failed" in row]
    assert all(row["failed"] == "film film" for row in rows)
    return [(row["stage"], row["step"]) for row in rows]


def narrow(folder):
    return ["--optimizer.precision", "bf16", "--stages.0.train", "lora"]


@pytest.mark.parametrize(("words", "within"), [(looking, 1e-4), (narrow, 2e-2)])
def test_split_weights_train_as_whole_ones(project, alone, words, within):
    split, whole = project, alone(words)
    asked = ["--stages.1.accumulate", "1", *words(split)]
    run = launch(split, *asked, sharded=True)
    assert run.returncode == 0, run.stderr
    about = json.loads((split / "training" / "settings.json").read_text())
    assert about["distributed"] == "FSDP"
    for a, b in zip(log(whole), log(split), strict=True):
        assert a.keys() == b.keys()
        for name in {"loss", "validation"} & a.keys():
            assert b[name] == pytest.approx(a[name], rel=within), (name, a["stage"], a["step"])
    one, two = weights(whole), weights(split)
    assert {k: t.dtype for k, t in one.items()} == {k: t.dtype for k, t in two.items()}
    films = [sorted(path.name for path in p.glob("training/films/*")) for p in (whole, split)]
    assert films[0] == films[1]
    if words is looking:
        rows = log(split)
        newest = split / "training/checkpoints/01-00000006"
        share = sorted(newest.glob("state/*.distcp"))[1]
        os.truncate(share, share.stat().st_size // 2)
        block_films(split)
        run = launch(split, *asked, sharded=True)
        assert run.returncode == 0 and "after 3 steps" in run.stdout
        assert f"{newest} is damaged (state/{share.name} has " in run.stdout
        assert [row for row in log(split) if "failed" not in row] == rows
        assert failed(split) == [(1, 3), (1, 6)] and equal(weights(split), two)


def test_a_launcher_that_is_told_to_end(project):
    """Ends what reads the clips too: that is no fault to tell of, and what is said is said once."""
    run = start(project, "--workers", "2", "--stages.0.steps", "100000")
    rows = project / "training" / "log.jsonl"
    while not rows.exists() or rows.read_text().count("\n") < 3:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    run.terminate()
    said = run.communicate(timeout=120)[1]
    assert said.count("moga.train: ") == len(re.findall(OTHERS, said)) == 1, said
    assert said.count("Traceback") == said.count("got signal: 15") == 1, said  # the launcher's own


def test_a_fault_in_one_process_is_shown_whole_and_ends_all(project):
    (project / "faulty.py").write_text(FAULTY)
    run = start(project, program=(str(project / "faulty.py"),))
    said = run.communicate(timeout=120)[1]
    assert run.returncode != 0
    assert said.count("ZeroDivisionError: division by zero") == 1, said
    assert said.count("moga.train: ") == len(re.findall(OTHERS, said)) == 1, said


def test_only_one_launch_trains_in_a_folder(project, trained):
    shutil.copytree(trained / "training", project / "training")
    with alone_in(Workspace(project / "training")):
        run = launch(project)
    assert run.returncode != 0 and "[rank1]" not in run.stderr
    assert run.stderr.count("moga.train: another training runs in") == 1


def test_split_weights_have_no_8_bit_optimizer(project, capsys, monkeypatch):
    """Said before bitsandbytes is asked for, which would be installed for nothing."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    message = refused(project, capsys, "--optimizer.kind", "adamw8bit")
    assert "optimizer.kind is 'adamw8bit', which can't work on weights that FSDP splits" in message


def test_weights_are_split_as_fsdp_2_does_only(project, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    message = refused(project, capsys)
    assert "accelerate is set to FSDP version 1" in message and "--fsdp_version 2" in message
    assert not (project / "training").exists()
