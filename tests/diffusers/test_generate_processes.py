"""`torchrun -m moga.generate`: several processes, one film and one voice."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchrun import command, launch

from moga.generate import main
from moga.generate.options import UsageError, parse
from moga.generate.sharing import Sharing

ON_CPU = str(Path(__file__).with_name("generate_on_cpu.py"))


def latents(film):
    return load_file(film.with_suffix(".latents.safetensors"))["latents"]


@pytest.mark.parametrize(
    ("processes", "who", "changes"),
    [
        (2, "2 share the tokens", {"no_cfg_halves": True}),
        (4, "4: one half for the text, one for the negative; in each, 2 share the tokens", {}),
        (2, "2: one half for the text, one for the negative", {"model": None}),
    ],
    ids=["together", "in halves that share", "an expert each half"],
)
def test_the_film_is_that_of_one_process(
    line, model_files, tmp_path, capsys, processes, who, changes
):
    text = {"embeddings": None, "text_encoder": model_files("umt5"), "negative": "blurry"}
    if "model" in changes:  # Wan 2.2's two experts
        text |= {"model_high": model_files("t2v"), "model_low": model_files("low"), "cfg_low": 2}
    out = tmp_path / "many.mp4"
    assert main(line(**{**text, **({"model": None} if "model" in changes else {})})) == 0
    run = launch(processes, ON_CPU, *line(out=out, **text, **changes))
    assert run.returncode == 0, run.stderr
    torch.testing.assert_close(latents(out), latents(tmp_path / "film.mp4"), rtol=0, atol=1e-5)
    assert f"processes {who}\n" in run.stdout
    assert run.stdout.count("wrote ") == run.stdout.count("saved ") == 1
    assert run.stderr.count("sampling:   0%") == run.stderr.count("decoding:   0%") == 1
    lines = [row for row in run.stderr.splitlines() if row and "ing: " not in row]
    assert not lines, lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"no_cfg_halves": True}, "3 processes share a sequence, but there are 2 attention heads"),
        ({"steps": "many"}, "argument --steps: invalid int value: 'many'"),
    ],
    ids=["heads", "argparse"],
)
def test_what_cannot_be_done_is_refused_once(line, tmp_path, changes, words):
    before = set(tmp_path.iterdir())
    run = launch(3, ON_CPU, *line(**changes))
    assert run.returncode != 0 and run.stderr.count(words) == 1, run.stderr
    assert not re.search(r"moga.*Traceback|Traceback.*moga", run.stderr)
    assert set(tmp_path.iterdir()) == before


def test_what_one_process_has_to_do_alone(line, tmp_path):
    (tmp_path / "film.latents.safetensors").touch()
    for changes, words in (
        ({"offload": "group"}, "--offload is group, which moves a model in pieces that processes"),
        ({"device": "cuda:1"}, "--device is cuda:1, but each process has a GPU of its own"),
        ({"latents": tmp_path / "film.latents.safetensors"}, "start it without torchrun"),
    ):
        options = parse(line(**changes))
        with pytest.raises(UsageError, match=words):
            Sharing.of(options, 2)
        assert Sharing.of(options, 1).ranks == 1


def test_halves_where_there_are_two(line):
    for processes, changes, ranks in (
        (2, {}, 1),
        (6, {}, 3),
        (3, {}, 3),
        (4, {"cfg": 1}, 4),
        (4, {"no_cfg_halves": True}, 4),
    ):
        assert Sharing.of(parse(line(**changes)), processes).ranks == ranks


def started(line, doing="sampling", steps=1000):
    """A run of two processes, once it samples or decodes, and what it said."""
    start, environment = command(2, ON_CPU, *line(steps=steps))
    pipe = subprocess.PIPE
    run = subprocess.Popen(
        start, env=environment, stderr=pipe, stdout=pipe, text=True, start_new_session=True
    )
    said = ""
    while not re.search(rf"{doing}: .* [1-9]\d*/\d+ ", said[-200:]):
        said += (letter := run.stderr.read(1))
        assert letter, said
    return run, said


def test_a_process_that_dies_ends_all(line, tmp_path):
    run, said = started(line)
    second = next(pid for pid in children(run.pid) if b"RANK=1\0" in environment_of(pid))
    os.kill(second, signal.SIGKILL)
    said += run.communicate(timeout=120)[1]
    assert run.returncode != 0
    assert said.count("moga.generate: ") <= 1 and "Signal 9 (SIGKILL)" in said
    assert [path for path in tmp_path.iterdir() if path.name.startswith("film")] == []


def test_ctrl_c_while_decoding_keeps_the_latents(line, tmp_path):
    """By then the others are done; the film is what the main process alone makes."""
    (tmp_path / "story.txt").write_text("[20s] rain\n[20s] coffee")
    run, said = started(line, "decoding", steps=1)
    os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=120)[1]
    latents = tmp_path / "film.latents.safetensors"
    words = f"moga.generate: stopped. The latents are in {latents}: --latents decodes them."
    assert run.returncode != 0 and said.count(words) == 1 == said.count("moga.generate: "), said
    assert sorted(path.name for path in tmp_path.glob("film*")) == [latents.name]


def test_ctrl_c_ends_all_with_a_word(line, tmp_path):
    run, said = started(line)
    os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=120)[1]
    assert run.returncode != 0
    assert said.count("moga.generate: stopped.") == 1 == said.count("moga.generate: "), said
    assert [path for path in tmp_path.iterdir() if path.name.startswith("film")] == []


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def environment_of(pid):
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
