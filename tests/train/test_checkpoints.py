"""Checkpoints that are not as they were written are never loaded, and stop no training."""

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from older_checkpoints import as_by_0_2
from training_runs import equal, log, refused, train, train_alone, weights

from moga.train.checkpoints import PROGRESS, Checkpoints, Progress
from moga.train.errors import TrainingError

NEWEST, BEFORE = "01-00000006", "01-00000003"


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def unlink(path):
    path.unlink()


@pytest.fixture
def standing(project, trained):
    """A project with a training that is done, and its checkpoints' folder."""
    for part in ("training", "cache"):
        shutil.copytree(trained / part, project / part)
    return project, project / "training" / "checkpoints"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


STATE = "state/__0_0.distcp"
FILES = [STATE, "state/.metadata"]


@pytest.mark.parametrize("damage", [halve, empty, zero, flip, unlink])
@pytest.mark.parametrize("name", [*FILES, PROGRESS])
def test_every_damage_is_seen(standing, name, damage):
    _, folder = standing
    if (name, damage) == (PROGRESS, flip):
        about = (folder / NEWEST / PROGRESS).read_text()
        (folder / NEWEST / PROGRESS).write_text(about.replace('"step": 6', '"step": 7'))
    else:
        damage(folder / NEWEST / name)
    survey = Checkpoints(folder, 2).survey()
    assert survey.newest[0].name == BEFORE and survey.newest[1].step == 3
    (one,) = survey.damaged
    assert one.path.name == NEWEST and name in one.why


def test_every_file_of_a_checkpoint_is_noted(standing):
    _, folder = standing
    inside = (path for path in (folder / NEWEST).rglob("*") if path.is_file())
    held = {path.relative_to(folder / NEWEST).as_posix() for path in inside}
    assert set(FILES) < held
    noted = set(json.loads((folder / NEWEST / PROGRESS).read_text())["files"])
    assert noted == held - {PROGRESS} | {"../../stages/00-routers.safetensors"}


def test_a_training_goes_back_to_the_newest_whole_one(standing, trained, capsys):
    project, folder = standing
    halve(folder / NEWEST / STATE)
    assert train(project, "--check") == 0
    said = capsys.readouterr().out
    why = f"the checkpoint {folder / NEWEST} is damaged ({STATE} has "
    assert why in said and "going on in stage 'full' after 3 steps" in said
    assert names(folder) == [BEFORE, NEWEST]
    assert train_alone(project) == 0
    assert names(folder) == [BEFORE, NEWEST, NEWEST + ".damaged"]
    assert log(project) == log(trained)
    assert equal(weights(project), weights(trained))
    assert Checkpoints(folder, 2).latest()[0].name == NEWEST


def test_what_is_set_aside_is_told(standing, capsys):
    project, folder = standing
    empty(folder / NEWEST / PROGRESS)
    assert train(project, "--stages.1.steps", "3") == 0
    said = capsys.readouterr().out
    assert f"{folder / NEWEST} is kept as {NEWEST}.damaged, which can be deleted" in said
    assert f"the checkpoint {folder / NEWEST} is damaged (progress.json cannot be read" in said


def test_none_that_is_whole(standing, capsys):
    project, folder = standing
    unlink(folder / NEWEST / STATE)
    zero(folder / BEFORE / "state" / ".metadata")
    for words in ((), ("--check",)):
        said = refused(project, capsys, *words)
        assert f"no checkpoint in {folder} is whole ({NEWEST}: {STATE} is gone; " in said
        assert f"{BEFORE}: state/.metadata has other contents than were written)" in said
        assert "put back a copy of one, or delete that folder to train from the beginning" in said
    assert names(folder) == [BEFORE, NEWEST]


@pytest.mark.parametrize("damage", [halve, flip, unlink])
def test_what_the_stage_before_left_is_needed(standing, capsys, damage):
    project, _ = standing
    damage(project / "training" / "stages" / "00-routers.safetensors")
    said = refused(project, capsys)
    assert said.count("../../stages/00-routers.safetensors") == 2 and "put back a copy" in said


def test_a_training_may_be_moved(standing, tmp_path_factory, capsys):
    project, _ = standing
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.move(project / "training", moved)
    assert train(project, "--save.folder", str(moved), "--stages.1.steps", "7") == 0
    assert "going on in stage 'full' after 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "ema-0.safetensors"])
def test_a_checkpoint_of_an_older_version_is_loaded_or_named(standing, trained, capsys, name):
    """It notes nothing of its files."""
    project, folder = standing
    shutil.rmtree(folder / NEWEST)
    as_by_0_2(folder / BEFORE)
    if name == "model.safetensors":  # the same for all three: once is enough
        assert train_alone(project) == 0
        assert log(project) == log(trained)
        assert equal(weights(project), weights(trained))
        shutil.rmtree(folder / NEWEST)
    halve(folder / BEFORE / name)
    said = refused(project, capsys)
    assert f"the checkpoint {folder / BEFORE} cannot be loaded (" in said
    assert "delete it to go on from the one before." in said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.dictionaries(
        st.text("abc.", min_size=1, max_size=6).filter(lambda name: name.strip(".")),
        st.binary(max_size=40),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_any_change_to_any_file(tmp_path, held, data):
    """Whatever a checkpoint holds, in folders of its own too, as those of split weights."""
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints, progress = Checkpoints(folder, 2), Progress(0, 5, {})
    inner = checkpoints.begin(progress, 0) / "pytorch_model_fsdp_0"
    inner.mkdir()
    for name, contents in held.items():
        (inner / name).write_bytes(contents)
    path = checkpoints.complete(progress)
    assert checkpoints.latest() == (path, progress)
    file = path / "pytorch_model_fsdp_0" / data.draw(st.sampled_from(sorted(held)))
    other = data.draw(st.binary(max_size=40).filter(lambda other: other != file.read_bytes()))
    file.write_bytes(other)
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is whole \(00-00000005: pytorch"):
        checkpoints.latest()
