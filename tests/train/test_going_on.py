"""A training that was cut off goes on where it was."""

import shutil
import signal

import pytest
from training_runs import (
    AS_LONG,
    equal,
    furnish,
    kept,
    log,
    refused,
    train,
    train_alone,
    weights,
)

from moga.train.checkpoints import PROGRESS, Checkpoints


def killing_itself(after):
    """Code that ends a training, with no chance to clean up, when it has logged `after` rows."""
    return f"""
import os, signal
from moga.train.log import Log
add, rows = Log.add, []
def add_and_die(log, row):
    add(log, row)
    rows.append(row)
    if len(rows) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
Log.add = add_and_die
"""


@pytest.mark.parametrize("after", [3, 7, 12])
def test_a_killed_training_goes_on_bit_for_bit(project, trained, after):
    assert train_alone(project, killing_itself(after)) == -signal.SIGKILL
    assert not (project / "training/model.safetensors").exists()
    assert train_alone(project) == 0
    assert log(project) == log(trained)
    assert equal(weights(project), weights(trained))


def test_a_checkpoint_holds_what_is_trained(project, files, tmp_path_factory):
    """A LoRA's are small, however large its model; the frozen weights come from its file."""
    whole = furnish(tmp_path_factory.mktemp(AS_LONG.format("whole")), files)
    for folder in (project, whole):
        config = folder / "config.toml"
        config.write_text(config.read_text().replace('train = "full"', 'train = "lora"'))
    assert train_alone(project, killing_itself(12)) == -signal.SIGKILL
    checkpoint, at = Checkpoints(project / "training" / "checkpoints", 2).latest()
    assert at.stage == 1
    held = kept(checkpoint)
    assert held and all(".lora_" in name or ".router." in name for name in held)
    assert train_alone(project) == train_alone(whole) == 0
    assert log(project) == log(whole)
    assert equal(weights(project), weights(whole))


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
    (folder / ".01-00000006.part" / "state" / "__0_0.distcp").write_bytes(b"half")
    assert train_alone(project) == 0
    assert log(project) == log(trained)
    assert equal(weights(project), weights(trained))


def test_other_settings_do_not_continue_a_training(project, trained, capsys):
    shutil.copytree(trained / "training", project / "training")
    message = refused(project, capsys, "--stages.1.lr", "5")
    assert "stages.1.lr = 0.001, now it is 5.0" in message and "another save.folder" in message


def test_a_checkpoint_becomes_one_file(project, trained, capsys):
    """The last one is what the training left, and one within a stage is a model like it."""
    shutil.copytree(trained / "training", project / "training")
    assert "stages.1.lr = 0.001, now it is 5" in refused(
        project, capsys, "--consolidate", "--stages.1.lr", "5"
    )
    assert train(project, "--consolidate") == 0
    assert "model-01-00000006.safetensors" in capsys.readouterr().out
    assert equal(weights(project, "model-01-00000006.safetensors"), weights(trained))
    shutil.rmtree(project / "training/checkpoints/01-00000006")
    assert train(project, "--consolidate") == 0
    before = weights(project, "model-01-00000003.safetensors")
    assert before.keys() == weights(trained).keys() and not equal(before, weights(trained))
    shutil.rmtree(project / "training/checkpoints")
    said = refused(project, capsys, "--consolidate")
    assert "checkpoints has no checkpoint; train until the first one is written." in said
