"""What a training may go on from, and what its checkpoints survive."""

import shutil
from datetime import timedelta

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moga.data.rows import examine, read_rows
from moga.train.checkpoints import Checkpoints, Progress
from moga.train.errors import TrainingError
from moga.train.network import join
from moga.train.ranks import Ranks
from moga.train.read_settings import SettingsError, read_settings
from moga.train.resume import check_same, fingerprint

CONFIG = """
[data]
rows = "rows.jsonl"
vae = "vae.safetensors"
text_encoder = "umt5.safetensors"
[model]
file = "wan.safetensors"
[[stages]]
name = "first"
steps = 4
seconds = 1
[[stages]]
name = "second"
steps = 6
seconds = 2
[[stages]]
name = "third"
steps = 8
seconds = 2
"""


@pytest.fixture
def project(files, tmp_path):
    for path in files.iterdir():
        if path.is_file():
            shutil.copy2(path, tmp_path)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def standing(project, *words, processes=1):
    """The settings, and the fingerprint of its checkpoints."""
    settings = read_settings(project / "config.toml", list(words))
    rows = examine(read_rows(settings.data.rows), fps=settings.data.fps)
    return settings, fingerprint(settings, rows, Ranks(processes=processes))


def goes_on(project, then, words=(), processes=1, stage=1, step=3):
    """Hold what is asked for now against a checkpoint whose fingerprint is `then`."""
    check_same(*standing(project, *words, processes=processes), Progress(stage, step, then))


def test_as_it_was(project, tmp_path_factory):
    _, then = standing(project)
    goes_on(project, then)
    elsewhere = tmp_path_factory.mktemp("moved")
    shutil.copytree(project, elsewhere, dirs_exist_ok=True)
    goes_on(elsewhere, then)


@pytest.mark.parametrize(
    "words",
    [
        ["--stages.2.steps", "80"],
        ["--stages.1.steps", "60"],
        ["--stages.1.steps", "3"],
        ["--workers", "5"],
        ["--save.every", "7"],
    ],
)
def test_what_may_change(project, words):
    _, then = standing(project)
    goes_on(project, then, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages.0.steps", "40"], r"stages\.0\.steps = 4, now it is 40"),
        (["--stages.1.steps", "2"], r"stages\.1\.steps is 2, but .* holds 3 steps of it; give 3"),
        (["--stages.1.lr", "5"], r"stages\.1\.lr = 1e-05, now it is 5\.0"),
        (["--seed", "5"], "seed = 0, now it is 5"),
    ],
)
def test_what_may_not(project, words, message):
    _, then = standing(project)
    with pytest.raises(SettingsError, match=message):
        goes_on(project, then, words)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rates_that_go_by_the_number_of_steps(project, schedule):
    words = ["--optimizer.schedule", schedule]
    _, then = standing(project, *words)
    goes_on(project, then, [*words, "--stages.2.steps", "80"])
    with pytest.raises(SettingsError, match=r"stages\.1\.steps = 6, now it is 60"):
        goes_on(project, then, [*words, "--stages.1.steps", "60"])


@given(
    before=st.integers(1, 8),
    now=st.integers(1, 8),
    forwards=st.integers(1, 4),
    shared=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_any_number_of_processes_that_do_the_same_steps(project, before, now, forwards, shared):
    """forwards: of each of those before."""
    every = [f"--stages.{index}.forwards" for index in range(3)]
    all_of_them = [word for name in every for word in (name, str(before * forwards))]
    each = [w for i in range(3) for w in (f"--stages.{i}.accumulate", str(forwards))]
    _, then = standing(project, *(all_of_them if shared else each), processes=before)
    goes_on(project, then, all_of_them, processes=now)
    if now == before:
        goes_on(project, then, each, processes=now)
        return
    with pytest.raises(SettingsError, match=f"with {before * forwards} forwards to a step in st.* "
                       f"'first', now it is {now * forwards}; set stages.0.forwards to "
                       f"{before * forwards} and stages.1.forwards to .* any number"):  # fmt: skip
        goes_on(project, then, each, processes=now)


def as_noted_by_0_2(then, processes=1, split=False):
    """The fingerprint as version 0.2 would have written it."""
    stages = [{**stage, "accumulate": 1} for stage in then["stages"]]
    for stage in stages:
        del stage["forwards"]
    kept = {k: v for k, v in then.items() if k != "clips at a time"}
    return {**kept, "stages": stages, "processes": processes, SPLIT: split}


SPLIT = "weights split over processes"


def test_what_version_0_2_noted(project):
    _, then = standing(project)
    goes_on(project, as_noted_by_0_2(then))
    goes_on(project, as_noted_by_0_2(then, processes=2), processes=2)
    with pytest.raises(SettingsError, match="2 forwards to a step in stage 'first', now it is 1"):
        goes_on(project, as_noted_by_0_2(then, processes=2))
    with pytest.raises(SettingsError, match=r"training of version 0\.2 whose weights are split ov"):
        goes_on(project, as_noted_by_0_2(then, processes=2, split=True), processes=2)


def test_other_clips(project):
    _, then = standing(project)
    rows = project / "rows.jsonl"
    for changed in (rows.read_text().split("\n", 1)[1], rows.read_text().replace("close", "far")):
        whole = rows.read_text()
        rows.write_text(changed)
        with pytest.raises(SettingsError, match=r"clips of data\.rows = 3 \(\w+\), now it is"):
            goes_on(project, then)
        rows.write_text(whole)


def test_another_model_of_the_same_name(project):
    _, then = standing(project)
    shutil.copy2(project / "vae.safetensors", project / "wan.safetensors")
    with pytest.raises(SettingsError, match=r"contents of model\.file"):
        goes_on(project, then)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("disk full")])
def test_only_what_a_disk_does_is_told_as_that(tmp_path, error):
    checkpoints, progress = Checkpoints(tmp_path, 2), Progress(0, 1, {})

    def write(part):
        raise error

    checkpoints.begin(progress, 0)
    expected = TrainingError if type(error) is RuntimeError else torch.OutOfMemoryError
    with pytest.raises(expected):
        checkpoints.guarded(progress, write)


def test_processes_wait_for_each_other_as_long_as_is_said(project):
    """While one fills the cache they wait for hours, see test_parallel.py."""
    asked, _ = standing(project, "--parallel.timeout", "7")
    assert join(asked).init_handler.timeout == timedelta(minutes=7)
