"""Checkpoints as version 0.2 wrote them, made of those of now."""

import json
import shutil

import torch
from safetensors.torch import save_file
from training_runs import kept

from moga.train.checkpoints import PROGRESS


def as_by_0_2(checkpoint, routers=lambda name: ".router." in name):
    """Turn a checkpoint of one process into what version 0.2 left: files by kind, none noted.

    Its optimizer counted weights in its own order, routers last.
    """
    model, average = kept(checkpoint), kept(checkpoint, "ema.")
    order = sorted(model, key=routers)
    state = {}
    for name, value in kept(checkpoint, "optimizer.").items():
        weight, _, key = name.rpartition(".")
        state.setdefault(order.index(weight), {})[key] = value
    groups = [{"params": list(range(len(order))), "lr": 1.0}]
    shutil.rmtree(checkpoint / "state")
    save_file(model, checkpoint / "model.safetensors")
    torch.save({"state": state, "param_groups": groups}, checkpoint / "optimizer.bin")
    numbered = {str(i): average[name].contiguous() for i, name in enumerate(model)}
    save_file(numbered, checkpoint / "ema-0.safetensors", {"step": "1"})
    about = json.loads((checkpoint / PROGRESS).read_text())
    then = about["settings"]
    del about["files"], then["clips at a time"]
    for stage, accumulate in zip(then["stages"], (1, 2), strict=True):
        assert stage.pop("forwards") == accumulate
        stage["accumulate"] = accumulate
    then |= {"processes": 1, "weights split over processes": False}
    (checkpoint / PROGRESS).write_text(json.dumps(about))
