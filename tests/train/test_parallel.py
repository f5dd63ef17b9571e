"""Processes that share a training: same numbers as one process, on any number of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from training_runs import furnish, kept, weights
from training_runs import log as rows_of

from moga.hosts.diffusers import wan_state_dict
from moga.train.checkpoints import Checkpoints

LAUNCHES = Path(__file__).with_name("launches.py")
STAGES = """
[[stages]]
name = "full"
train = "full"
steps = 1
seconds = 2
lr = 1e-3
router_lr = 1e-2
forwards = 4
"""


@pytest.fixture(scope="module")
def materials(files, tmp_path_factory):
    """A model of four heads. Its clips have 18 or 30 tokens, uneven over four processes."""
    folder = tmp_path_factory.mktemp("materials")
    for path in files.iterdir():
        if path.name != "wan.safetensors":
            (folder / path.name).symlink_to(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dit = WanTransformer3DModel(
            num_attention_heads=4, attention_head_dim=128, num_layers=2, ffn_dim=64,
            text_dim=32, freq_dim=64,
        )  # fmt: skip
    save_file(wan_state_dict(dit), folder / "wan.safetensors")
    return folder


def project(folder, materials):
    furnish(folder, materials)
    config = folder / "config.toml"
    text = config.read_text().partition("[[stages]]")[0] + STAGES
    config.write_text(
        text.replace("loss_every = 4", "loss_every = 2").replace("width = 32", "width = 48")
    )
    (folder / "film.txt").write_text("[5f] one\n[4f] two")
    return folder


def launch(name, folder, processes, *words, **more):
    """One of LAUNCHES; films and validation losses on the way."""
    words = [str(folder / "config.toml"), "--parallel.timeout", "3", *words]
    return {"name": name, "processes": processes, "words": words, **more}


def play(folder, launches):
    """What every launch returned and said, by its name, rank by rank."""
    (folder / "launches.json").write_text(json.dumps(launches))
    command = [sys.executable, str(LAUNCHES), str(folder / "launches.json")]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = {}
    for one in launches:
        texts = [folder / f"{one['name']}.{rank}.txt" for rank in range(one["processes"])]
        codes = [text.with_suffix(".code") for text in texts]
        found[one["name"]] = [
            (int(code.read_text()) if code.exists() else None, text.read_text())
            for code, text in zip(codes, texts, strict=True)
        ]
    return found


SHARED = "--parallel.sequence"
NAMES = ("one", "many", "ill", "wrong", "lora", "loras")
HYBRID = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
}
LOAD = ("load_max", "load_min", "load_entropy", "gate")


@pytest.fixture(scope="module")
def played(materials, tmp_path_factory):
    """Folder, and what came of the launches; a training by one process, and by ever others."""
    folder = tmp_path_factory.mktemp("played")
    for name in NAMES:
        (folder / name).mkdir()
        project(folder / name, materials)
    one, many, ill, wrong, lora, loras = (folder / name for name in NAMES)

    def steps(count):
        return ["--stages.0.steps", str(count), "--save.every", "2", "--save.keep_last", "9"]

    films = ["--validation.scripts", f'["{one}/film.txt"]', "--validation.every", "3"]
    films += ["--validation.steps", "2"]
    adapter = ["--stages.0.train", "lora", "--stages.0.batch", "2", "--stages.0.steps", "3"]
    adapter += ["--optimizer.checkpointing", "offload", "--objective.caption_dropout", "0.5"]
    adapter += ["--data.cache", str(one / "cache")]
    short = ["--parallel.timeout", "0.1", "--save.every", "1", "--data.cache", str(one / "cache")]
    silent = {"rank": 1, "at": 4, "how": "silent", "seconds": 9}
    told = {"rank": 0, "at": 1, "how": "SIGTERM"}
    killed = {"rank": 1, "at": 3, "how": "SIGKILL"}
    return folder, play(
        folder,
        [
            launch("one", one, 1, *steps(7), *films),
            launch("first", many, 4, *steps(2), *films, SHARED, "2", split=True),
            launch(
                "hybrid", many, 4, *steps(3), *films, SHARED, "2", split=True, environment=HYBRID
            ),
            launch("second", many, 2, *steps(4), *films, split=True),
            launch("third", many, 4, *steps(6), *films, SHARED, "4"),
            launch("fourth", many, 1, *steps(7), *films),
            launch("lora", lora, 1, *adapter),
            launch("loras", loras, 4, *adapter, SHARED, "2"),
            launch("three", wrong, 4, SHARED, "3"),
            launch("forwards", wrong, 4, SHARED, "2", "--stages.0.forwards", "3"),
            launch("silent", ill, 2, *short, "--stages.0.steps", "6", ill=silent),
            launch("told", ill, 2, *short, "--stages.0.steps", "6", ill=told),
            launch("killed", ill, 2, *short, "--stages.0.steps", "6", ill=killed, slow=8),
            launch("alone", ill, 1, *short, "--stages.0.steps", "6"),
        ],
    )


def test_any_processes_train_as_one(played):
    """Each goes on where those before ended, in another way."""
    folder, said = played
    for name in ("one", "first", "hybrid", "second", "third", "fourth"):
        assert [code for code, _ in said[name]] == [0] * len(said[name]), said[name]
    for name, steps in (("hybrid", 2), ("second", 3), ("third", 4), ("fourth", 6)):
        assert f"going on in stage 'full' after {steps} steps" in said[name][0][1]
    alone, together = rows_of(folder / "one"), rows_of(folder / "many")
    assert [row["step"] for row in together if "loss" in row] == list(range(1, 8))
    assert [row.keys() for row in alone] == [row.keys() for row in together]
    for a, b in zip(alone, together, strict=True):
        # What the routers do is that of the first process's last forward: the same from step 5 on.
        own = set(LOAD) if a["step"] < 5 else set()
        for name, value in a.items():
            if name in own:
                continue
            assert b[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, a["step"])
    one, many = weights(folder / "one"), weights(folder / "many")
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_clips_in_pairs(played):
    """Some without text, inputs of recomputed blocks in host memory."""
    folder, said = played
    assert [code for code, _ in said["lora"] + said["loras"]] == [0] * 5, said["loras"]
    one, many = (rows_of(folder / name) for name in ("lora", "loras"))
    for a, b in zip(one, many, strict=True):
        for name in {"loss", "balance", "validation", "dense", "grad_norm"} & a.keys():
            assert b[name] == pytest.approx(a[name], rel=1e-4), (name, a["step"])
    one, many = (weights(folder / name, "adapter.safetensors") for name in ("lora", "loras"))
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-5)


def test_films_of_a_shared_model(played):
    folder, _ = played
    films = [
        sorted((folder / name / "training/films").glob("*.safetensors")) for name in ("one", "many")
    ]
    assert [film.name for film in films[0]] == [film.name for film in films[1]]
    assert len(films[0]) == 2
    for one, many in zip(*films, strict=True):
        torch.testing.assert_close(load_file(many), load_file(one), rtol=1e-3, atol=1e-4)


def test_what_a_checkpoint_holds_is_spread_over_its_processes(played):
    """Weights, average and what AdamW remembers, each process its part, and nothing twice."""
    folder, _ = played
    one, many = (folder / name / "training/checkpoints" for name in ("one", "many"))
    assert len(list((many / "00-00000004/state").glob("*.distcp"))) == 2
    names = {what: set(kept(one / "00-00000006", what)) for what in ("model.", "ema.")}
    assert names["model."] == names["ema."] == set(kept(many / "00-00000006"))
    sizes = [path.stat().st_size for path in (many / "00-00000004/state").glob("*.distcp")]
    whole = sum(path.stat().st_size for path in (one / "00-00000004/state").glob("*.distcp"))
    assert sum(sizes) == pytest.approx(whole, rel=0.05) and max(sizes) < 0.6 * whole


def test_processes_that_do_not_come_out_even(played):
    _, said = played
    assert [code for code, _ in said["three"] + said["forwards"]] == [2] * 8
    sentence = "moga.train: parallel.sequence is 3, which does not divide the 4 processes of this"
    assert said["three"][0][1].startswith(sentence)
    sentence = "moga.train: stages.0.forwards is 3, which 4 processes, 2 to a clip, cannot do even"
    assert said["forwards"][0][1].startswith(sentence)
    assert all(words == "" for name in ("three", "forwards") for _, words in said[name][1:])


def test_a_process_that_ends_or_does_not_answer(played):
    """Ends the others, in a sentence of the first one; checkpoints are whole, and it goes on."""
    folder, said = played
    sentence = "moga.train: another process of this training has ended, or does not answer"
    assert [code for code, _ in said["silent"]] == [2, 2]
    assert [code for code, _ in said["told"]] == [128 + signal.SIGTERM, 2]
    assert "moga.train: ended by its launcher, which does so when another" in said["told"][0][1]
    assert "moga.train" not in said["told"][1][1]
    assert [code for code, _ in said["killed"]] == [2, None]
    for name in ("silent", "killed"):
        assert sentence in said[name][0][1] and sentence not in said[name][1][1]
    assert "going on in stage 'full' after 2 steps" in said["killed"][0][1]
    assert said["alone"][0][0] == 0, said["alone"]
    losses = [
        [row["loss"] for row in rows_of(folder / name) if "loss" in row] for name in ("one", "ill")
    ]
    assert losses[1] == pytest.approx(losses[0][:6], rel=1e-4)
    assert [p.name for p in Checkpoints(folder / "ill/training/checkpoints", 2).all()] == [
        "00-00000005", "00-00000006"
    ]  # fmt: skip
