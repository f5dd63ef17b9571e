"""Several launches of `python -m moga.train`, one after the other, in processes that stay.

    python launches.py LAUNCHES.json

Starting Python costs more than a tiny training does: the processes are forked of one that has
imported everything, and each plays its rank in every launch. A launch is {"name", "processes",
"words"}. It may have "split" (FSDP 2), "environment", "slow" (seconds that filling the cache takes
longer), "ill" ({"rank", "at" (rows logged), "how": "silent" or a signal, "seconds"}).
What a rank says goes to NAME.RANK.txt beside the file, what it returns to NAME.RANK.code.

Three things of a machine with GPUs are made up on a CPU: accelerate splits weights, and diffusers
shares a sequence, only where they have seen an accelerator, and gloo gathers no unequal parts.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from diffusers.hooks import context_parallel
from safetensors.torch import save_file

import moga.train.evaluation
import moga.train.run
from moga.train import main
from moga.train.learner import Learner
from moga.train.log import Log

sys.path.append(str(Path(__file__).parents[1] / "parallel"))
from ranks import gather_unequal

begin, write_film, add = PartialState.__init__, moga.train.evaluation.write_film, Log.add
make_cache, forward_backward = moga.train.run.make_cache, Learner._forward_backward


def begin_as_if_accelerated(state, *args, **kwargs):
    begin(state, *args, **kwargs)
    if os.environ.get("ACCELERATE_USE_FSDP") and state.distributed_type.value == "MULTI_CPU":
        state.distributed_type = DistributedType.MULTI_XPU


def with_latents(pipe, latents, film, path):
    write_film(pipe, latents, film, path)
    save_file({"latents": latents}, path.with_suffix(".safetensors"))


def environment(launch, rank):
    if launch["processes"] == 1:
        return {"ACCELERATE_USE_CPU": "true"}
    count = str(launch["processes"])
    found = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count}
    found |= {"LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    found |= {"MASTER_PORT": str(launch["port"]), "ACCELERATE_USE_CPU": "true"}
    if launch.get("split"):
        found |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    return found | launch.get("environment", {})


def slow(seconds):
    def make_cache_in(*args, **kwargs):
        time.sleep(seconds)
        return make_cache(*args, **kwargs)

    return make_cache_in


def falling_ill(ill, rank):
    """Log.add that ends its process, or lets it stand still, when so many rows were logged."""
    rows = []

    def add_or_not(log, row):
        rows.append(row)
        if ill and rank == ill["rank"] and len(rows) == ill["at"]:
            if ill["how"] == "silent":
                time.sleep(ill["seconds"])
            else:
                os.kill(os.getpid(), getattr(signal, ill["how"]))
        add(log, row)

    return add_or_not


def with_spread_gradients(learner, batch):
    """Weights that are split have split gradients after every forward, not the last alone."""
    part = forward_backward(learner, batch)
    if learner.sharded:
        assert any(p.grad is not None for p in learner.trained.values())
    return part


def play(launch, rank, folder):
    before = dict(os.environ)
    os.environ.update(environment(launch, rank))
    Log.add = falling_ill(launch.get("ill"), rank)
    moga.train.run.make_cache = slow(launch.get("slow", 0))
    said = folder / f"{launch['name']}.{rank}.txt"
    with said.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            code = main(launch["words"])
        except Exception:
            traceback.print_exc()
            code = 1
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
    (folder / f"{launch['name']}.{rank}.code").write_text(str(code))
    os.environ.clear()
    os.environ.update(before)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run(path):
    launches = [{**launch, "port": free_port()} for launch in json.loads(path.read_text())]
    PartialState.__init__ = begin_as_if_accelerated
    Learner._forward_backward = with_spread_gradients
    moga.train.evaluation.write_film = with_latents
    torch.accelerator.device_count = lambda: 1
    context_parallel._all_gather_anything = gather_unequal
    children = []
    for rank in range(max(launch["processes"] for launch in launches)):
        if child := os.fork():
            children.append(child)
            continue
        for launch in launches:
            if rank < launch["processes"]:
                play(launch, rank, path.parent)
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
