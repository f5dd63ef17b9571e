"""What is said before several processes begin, and where they do not find each other."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_runs import refused

from moga.parallel.network import NetworkError, unlike
from moga.train.network import check_network

GIB = 1 << 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--parallel.sequence", "2"],
            "parallel.sequence is 2, but the model has 1 attention head",
        ),
        (["--parallel.sequence", "9"], "a frame of 32x32 has 4 tokens, and each process needs one"),
        (["--parallel.sequence", "0"], "parallel.sequence is 0: input should be greater than or"),
        (["--parallel.timeout", "0"], "parallel.timeout is 0: input should be greater than 0"),
        (["--stages.1.forwards", "4"], "accumulate is 2 and forwards is 4; both say how many"),
    ],
)
def test_a_wrong_request(project, capsys, words, message):
    assert message in refused(project, capsys, *words, "--check")
    assert not (project / "training").exists()


def test_a_sequence_for_more_processes_than_there_are(project, capsys):
    config = project / "config.toml"
    two = "[model.scratch]\nheads = 2\nlayers = 1\nffn = 64\ntext = 32\n"
    config.write_text(config.read_text().replace('[model]\nfile = "wan.safetensors"\n', two))
    said = refused(project, capsys, "--parallel.sequence", "2")
    assert "parallel.sequence is 2, which does not divide the 1 process of this launch" in said


def test_gpus_that_cannot_reach_each_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    check_network()  # one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NetworkError, match=r"this PyTorch has no NCCL, .* or start one process"):
        check_network()


def launched(project, **settings):
    """The second of two processes, whose first one never comes; what it says."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-m", "moga.train", str(project / "config.toml")]
    run = subprocess.run(
        [*command, "--parallel.timeout", "0.05"],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    return run.stderr


NOBODY = "no-such-machine.invalid"


def test_a_machine_that_nobody_knows(project):
    said = launched(project, MASTER_ADDR=NOBODY, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    assert f"moga.train: process 1: MASTER_ADDR is {NOBODY}, which no machine" in said


@pytest.mark.parametrize(("local", "silent"), [("0", False), ("1", True)])
def test_the_first_process_of_each_machine_tells_of_it(monkeypatch, local, silent):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": local, "MASTER_ADDR": NOBODY}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NetworkError, match=NOBODY) as caught:
        check_network()
    assert getattr(caught.value, "everywhere", False) == silent


def test_a_first_process_that_never_comes(project):
    said = launched(project)
    assert "moga.train: process 1: the processes of this launch do not find each other (" in said
    assert "see that MASTER_ADDR and MASTER_PORT name the first machine" in said


@given(st.lists(st.integers(8 * GIB, 192 * GIB), min_size=1, max_size=8))
def test_cards_that_are_unlike_are_told(sizes):
    words = unlike([(f"card {index}", size) for index, size in enumerate(sizes)])
    if max(sizes) - min(sizes) <= 0.02 * max(sizes):
        assert words is None
    else:
        assert words.startswith("the cards are unlike (1 x card 0 with ")


def test_cards_by_kind():
    cards = [("H100", 80 * GIB), ("H100", 80 * GIB), ("RTX 4090", 24 * GIB)]
    assert unlike(cards[:2]) is None
    assert "(2 x H100 with 80 GiB, 1 x RTX 4090 with 24 GiB)" in unlike(cards)
