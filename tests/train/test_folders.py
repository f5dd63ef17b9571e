"""One training at a time in a folder, which begins with what is whole in it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from training_runs import equal, log, refused, train, train_alone, weights

from moga.locks import Lock
from moga.train.cache.partials import writing_cache
from moga.train.errors import TrainingError
from moga.train.folders import alone_in
from moga.train.workspace import Workspace

HOLD = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from moga.train.cache.partials import writing_cache
from moga.train.folders import alone_in
from moga.train.workspace import Workspace
with ExitStack() as held:
    word = held.enter_context({what})
    print(word, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holding():
    """Starts a process that holds a folder. Returns it, and what it got."""
    started = []

    def start(what, folder):
        place = f"Path({str(folder)!r})"
        place = f"Workspace({place})" if what == "alone_in" else place
        code = HOLD.format(what=f"{what}({place})")
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_training_is_refused_and_the_first_unharmed(project, trained, capsys, holding):
    shutil.copytree(trained / "training", project / "training")
    before = log(project)
    process, _ = holding("alone_in", project / "training")
    left = project / "training" / "checkpoints" / ".01-00000009.part"
    left.mkdir()  # of the first
    said = refused(project, capsys, "--stages.1.steps", "9")
    assert f"another training runs in {project / 'training'}, process {process.pid} on " in said
    assert "let it end, or give another save.folder." in said
    assert log(project) == before and left.exists()
    assert train(project, "--check") == 0 and train(project, "--cache-only") == 0
    process.kill()  # with no chance to clean up
    process.wait()
    assert train(project, "--stages.1.steps", "7") == 0
    assert not left.exists()


def test_two_that_are_started_together_train_once(project, trained):
    """Real ones, at the same moment: one trains, the other says why it does not."""
    command = [sys.executable, "-m", "moga.train", str(project / "config.toml")]
    together = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in together]
    codes = [process.returncode for process in together]
    if sorted(codes) == [0, 2]:
        assert "another training runs in" in said[codes.index(2)][1]
    else:  # one was done before the other looked, and that found nothing to do
        assert codes == [0, 0] and any("after 6 steps" in out for out, _ in said)
    assert log(project) == log(trained)
    assert equal(weights(project), weights(trained))


def test_a_lock_is_not_held_on_by_what_a_training_started(tmp_path):
    """Workers that read the cache outlive a training that is killed."""
    code = f"""
import os, time
from pathlib import Path
from moga.train.folders import alone_in
from moga.train.workspace import Workspace
with alone_in(Workspace(Path({str(tmp_path)!r}))):
    if (child := os.fork()) == 0:
        os.close(1)
        time.sleep(600)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(run.stdout) if run.stdout.strip().isdigit() else None
    try:
        assert run.returncode == -signal.SIGKILL
        with alone_in(Workspace(tmp_path)):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_that_says_nothing_refuses_all_the_same(tmp_path, holding):
    holding("alone_in", tmp_path)
    for text in ("", "{", "[]", '{"process": 1}', '{"process": 1, "host": 2, "at": "x"}'):
        Workspace(tmp_path).lock.write_text(text)
        with (
            pytest.raises(TrainingError, match=r"^another training runs in [^,]*; let it end"),
            alone_in(Workspace(tmp_path)),
        ):
            pass


def test_a_disk_without_locks_is_told_of(tmp_path, capsys, monkeypatch):
    from moga import locks

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", none)
    with alone_in(Workspace(tmp_path)):
        pass
    assert "has no locks (No locks available), so a second training" in capsys.readouterr().out
    for part in ("latents", "texts"):
        (tmp_path / part).mkdir()
    with writing_cache(tmp_path) as one, writing_cache(tmp_path) as other:
        assert one != other


# What killed runs left


LEFT = [
    "log.part",  # of an older version
    ".log.jsonl.ab12.part",
    ".model.safetensors.ab12.part",
    "stages/.00-routers.safetensors.ab12.part",
    "checkpoints/.01-00000005.part/model.safetensors",
    "films/01-00000003-look.partial.mp4",
]
KEPT = ["mine.part", ".mine", "films/mine.mp4", "checkpoints/.mine", "notes/.a.part"]


def test_a_training_begins_with_what_is_whole(project, trained):
    shutil.copytree(trained / "training", project / "training")
    for name in (*LEFT, *KEPT):
        path = project / "training" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert train(project) == 0
    there = {n: (project / "training" / n).exists() for n in (*LEFT, *KEPT)}
    assert there == {**dict.fromkeys(LEFT, False), **dict.fromkeys(KEPT, True)}
    assert not (project / "training" / "checkpoints" / ".01-00000005.part").exists()


def test_a_killed_training_leaves_nothing_half(project):
    """Killed while it writes a checkpoint, and while it writes what a stage leaves."""
    dying = """
import os, signal
from moga.train import {module}
real = {module}.{name}
def die(*words, **named):
    real(*words, **named)
    os.kill(os.getpid(), signal.SIGKILL)
{module}.{name} = die
"""
    folder = project / "training"
    assert (
        train_alone(project, dying.format(module="learner", name="write_state")) == -signal.SIGKILL
    )
    assert list(folder.glob("checkpoints/.*.part"))
    replace = "import os\nos.replace = lambda *_: os.kill(os.getpid(), 9)\n"
    begin = "from moga.train import export\nreal = export.write_model\n"
    begin += f"def late(*words):\n    {replace.splitlines()[1]}\n    real(*words)\n"
    code = "import os\n" + begin + "export.write_model = late\n"
    assert train_alone(project, code) == -signal.SIGKILL
    assert list(folder.glob("stages/.*.part"))
    assert train_alone(project) == 0
    assert not list(folder.rglob("*.part"))


# Several that fill a cache


@pytest.fixture
def cache(tmp_path):
    for part in ("latents", "texts"):
        (tmp_path / part).mkdir()
    return tmp_path


def test_parts_of_those_that_write_stay_and_of_killed_ones_go(cache, holding):
    first, one = holding("writing_cache", cache)
    second, two = holding("writing_cache", cache)
    assert one != two
    parts = {word: cache / "latents" / f".abc.{word}.part" for word in (one, two, "999", "987654")}
    parts["text"] = cache / "texts" / f".abc.{one}.part"
    parts["old"] = cache / "texts" / ".abc.part"
    whole = cache / "texts" / "abc.safetensors"
    for path in (*parts.values(), whole):
        path.write_bytes(b"half")
    second.kill()
    second.wait()
    with writing_cache(cache) as word:
        assert word != one
    assert {name for name, path in parts.items() if path.exists()} == {one, "text"}
    assert whole.exists()
    first.kill()
    first.wait()
    with writing_cache(cache):
        pass
    assert not any(path.exists() for path in parts.values())


def test_a_killed_cache_leaves_nothing_half(project):
    dying = """
import os, signal
from moga.train.cache import writer
real = writer.save_file
def die(tensors, path, about):
    real(tensors, path, about)
    if "latents" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
writer.save_file = die
"""
    assert train_alone(project, dying) == -signal.SIGKILL
    assert len(list((project / "cache").rglob(".*.part"))) == 1
    assert train(project, "--cache-only") == 0
    assert not list((project / "cache").rglob(".*.part"))


def test_a_lock_is_given_back(tmp_path):
    path = tmp_path / "lock"
    for _ in range(3):
        lock = Lock(path)
        assert lock.take() and lock.take(5)
        lock.close()
    code = f"from moga.locks import Lock; print(Lock({str(path)!r}).take())"
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout.strip() == "True"
    with alone_in(Workspace(tmp_path)):
        said = json.loads(Workspace(tmp_path).lock.read_text())
    assert said["process"] == os.getpid() and abs(said["at"] - time.time()) < 3600
