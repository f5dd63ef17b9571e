"""What the tests of whole trainings share: a small configuration, and how it is run and read."""

import json
import subprocess
import sys

import torch
from safetensors.torch import load_file

from moga.hosts.diffusers import ShotCall
from moga.train import main
from moga.train.state import StoredState

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
# The name of a folder as long as that of a test. Paths are in the headers of models, so they move
# the weights in the file, and sums of weights that lie otherwise in memory differ in the last bit.
AS_LONG = "{:-<30}"


def furnish(folder, files):
    """Put videos, rows, models and CONFIG into a folder."""
    for path in files.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.toml").write_text(CONFIG)
    return folder


def train(project, *words):
    return main([str(project / "config.toml"), *words])


def train_alone(project, before=""):
    """Train in a process of its own, whose numbers no other test can change. Returns its code."""
    code = f"""
import sys
from moga.train import main
from moga.train.state import StoredState
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


def kept(checkpoint, what="model."):
    """The tensors of a checkpoint whose names begin so."""
    return StoredState(checkpoint).whole(what)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def refused(project, capsys, *words):
    capsys.readouterr()
    assert train(project, *words) == 2
    return capsys.readouterr().err


@torch.no_grad()
def velocity(dit):
    make = torch.Generator().manual_seed(0)
    return dit(
        torch.randn(1, 16, 3, 4, 4, generator=make),
        torch.tensor([500.0]),
        torch.randn(1, 24, dit.config.text_dim, generator=make),
        attention_kwargs={"moga": ShotCall((0, 1), 3, ((0, 12), (12, 24)))},
    ).sample
