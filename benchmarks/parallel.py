"""Several GPUs that share a sequence, against one: layer, whole forward, forward and backward.

    torchrun --standalone --nproc-per-node 4 benchmarks/parallel.py --json parallel.json

Random weights and real shapes of Wan in diffusers, bfloat16; dense beside it is diffusers' own, of
PyTorch. One GPU is measured while the others wait; then 2, 4, ... of them (--ranks: only those).
efficiency = time of one GPU over (GPUs x their time). After every case the JSON is written; started
again with it, this goes on where it was. On a CPU, to try it: --tiny.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import torch
from attention import CONFIGS, layout_of, routing_of
from diffusers import WanTransformer3DModel
from grids import GRIDS
from measuring import machine, queued, wait
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moga.attention import moga_attention
from moga.attention.ulysses import ulysses_attention
from moga.hosts.diffusers import ShotCall, enable_moga, record_routing, share_sequence
from moga.parallel import SequenceShards
from moga.parallel.exchange import start_gather, start_to_heads, start_to_tokens
from moga.parallel.processes import Processes, join, leave
from moga.parallel.signals import end
from moga.routing import Routing, balance_loss

MODELS = {  # heads, layers, feed-forward
    "1.3B": (12, 30, 8960),
    "14B": (40, 40, 13824),
    "tiny": (4, 2, 256),
}
TINY = {1_040: (20, 4, 13)}
WHAT = ("layer", "forward", "training")


@dataclass(frozen=True)
class Case:
    """What is measured: of which model, over how many tokens, in how many groups (0: dense)."""

    what: str
    model: str
    tokens: int
    groups: int
    ranks: int


def main() -> None:
    options = read_options()
    if not torch.cuda.is_available():
        torch.accelerator.device_count = lambda: 1  # diffusers divides by it
    processes = join(timedelta(minutes=5) if torch.cuda.is_available() else timedelta(minutes=30))
    if processes.count & (processes.count - 1):
        raise SystemExit(f"{processes.count} processes were started; start 2, 4, 8 or 16.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu", processes.local_rank)
    where, runs, wrong = processes.from_main(read(options.json, device) if processes.main else None)
    if wrong:
        leave()
        raise SystemExit(wrong if processes.main else 1)
    done = [run["case"] for run in runs]
    for case in cases(options, processes.count):
        if vars(case) in done:
            continue
        found = measured(case, options, processes, device)
        if not processes.main:
            continue
        runs.append({"case": vars(case), **found})
        add_efficiency(runs)
        print(json.dumps(runs[-1]), flush=True)
        if options.json:
            text = json.dumps({"machine": where, "runs": runs}, indent=1)
            options.json.write_text(text + "\n", encoding="utf-8")
    leave()
    end(0)  # Python's own end can abort over threads that PyTorch's network has left


def add_efficiency(runs: list[dict]) -> None:
    """To what several ranks took, wherever one alone was measured too."""
    for run in runs:
        one = {**run["case"], "ranks": 1}
        alone = next((other.get("ms") for other in runs if other["case"] == one), None)
        if alone and "ms" in run and run["case"] != one:
            run["efficiency"] = round(alone / (run["case"]["ranks"] * run["ms"]), 3)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["1.3B", "14B"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[187_200, 563_160])
    parser.add_argument("--groups", nargs="+", type=int, default=[0, 5, 20], help="0 is dense")
    parser.add_argument("--ranks", nargs="+", type=int, help="default: 1, 2, 4 ... all of them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a small model, to try it on a CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tiny:
        options.models, options.tokens = ["tiny"], list(TINY)
    return options


def read(path: Path | None, device: torch.device) -> tuple[dict, list[dict], str | None]:
    """The machine and the runs that a JSON has already, and why it cannot be gone on with.

    Runs that failed are made again. The machine is that of the first runs, with every command.
    """
    here = machine(device)
    if path is None or not path.exists():
        return here, [], None
    found = json.loads(path.read_text("utf-8"))
    where, runs = found["machine"], [run for run in found["runs"] if "error" not in run]
    if here["device"] not in where["device"]:
        kinds = f"times of {where['device']}, and this is {here['device']}"
        return here, [], f"--json is {path}, which has {kinds}; give another file."
    commands = where["command"].split("; ")
    if here["command"] not in commands:
        where["command"] = "; ".join([*commands, here["command"]])
    return where, runs, None


def cases(options: argparse.Namespace, count: int) -> Iterator[Case]:
    """In order of worth, one GPU right before several."""
    ranks = options.ranks or [2**n for n in range(int(math.log2(count)) + 1)]
    for what, model, tokens, groups in product(
        options.what, options.models, options.tokens, options.groups
    ):
        if (what, groups) == ("layer", 0):
            continue
        yield from (Case(what, model, tokens, groups, many) for many in ranks)


def measured(
    case: Case, options: argparse.Namespace, processes: Processes, device: torch.device
) -> dict:
    """Milliseconds, GiB of the fullest card, and what a layer's time is spent on."""
    dist.barrier()
    works = case.ranks > 1 or processes.main
    found, error = {}, None
    # As many sequences as fit beside one another, all alike: no card is idle, none waits.
    mesh = mesh_of(processes.count // case.ranks, case.ranks, device.type) if works else None
    if works:
        try:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            make = {"layer": layer, "forward": forward, "training": training}[case.what]
            # A call of a minute needs no second one to be believed.
            found = make(case, mesh, device, options.repeats if case.tokens < 400_000 else 1)
            if device.type == "cuda":
                found["gib"] = round(torch.cuda.max_memory_allocated() / 1024**3, 2)
        except torch.OutOfMemoryError as full:
            error = str(full).splitlines()[0]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    every: list = [None] * processes.count
    dist.all_gather_object(every, (found, error))
    errors = [error for _, error in every if error]
    if errors:
        return {"error": errors[0]}
    numbers = [found for found, _ in every if found]
    return {name: max(n[name] for n in numbers) for name in numbers[0]}


@cache
def mesh_of(copies: int, ranks: int, kind: str) -> DeviceMesh | None:
    """One for each number of ranks: every other would open connections of its own."""
    if ranks == 1:
        return None
    return init_device_mesh(kind, (copies, 1, ranks), mesh_dim_names=("copies", "ring", "ulysses"))


def layer(case: Case, mesh: DeviceMesh | None, device: torch.device, repeats: int) -> dict:
    """One attention layer, and by itself what it waits for: exchange, gather, attention."""
    layout, config = layout_of(grid_of(case.tokens), 1), CONFIGS[case.groups]
    heads = MODELS[case.model][0]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    routing = routing_of(layout, config.groups, device, "even")
    if mesh is None:
        q, k, v = some(layout.tokens, heads, device, dtype)

        def whole() -> Tensor:
            return moga_attention(q, k, v, routing, layout, config)

        return {"ms": median(whole, device, repeats)}
    shards = SequenceShards.of(layout.tokens, mesh["ulysses"].get_group())
    first, last = shards.span
    own = Routing(None, routing.group[:, first:last], routing.gate[:, first:last], config.groups)
    mine = some(last - first, heads, device, dtype)
    by_head = [start_to_heads(t, shards)() for t in mine]

    def exchange() -> Tensor:
        for arrive in [start_to_heads(t, shards) for t in mine]:
            arrive()
        return start_to_tokens(by_head[0], heads, shards)()

    def gather() -> list[Tensor]:
        group = start_gather(own.group.to(torch.uint8), shards)
        return [arrive() for arrive in (group, start_gather(own.gate, shards))]

    parts: dict[str, Callable] = {
        "ms": lambda: ulysses_attention(mine, own, layout, config, shards),
        "attention_ms": lambda: moga_attention(*by_head, routing, layout, config),
        "exchange_ms": exchange,
        "gather_ms": gather,
    }
    return {name: median(run, device, repeats) for name, run in parts.items()}


def forward(case: Case, mesh: DeviceMesh | None, device: torch.device, repeats: int) -> dict:
    """The whole transformer, as a pipeline calls it."""
    dit, call = shared(case, mesh, device)

    @torch.no_grad()
    def run() -> Tensor:
        return dit(**call, return_dict=False)[0]

    return {"ms": median(run, device, repeats)}


def training(case: Case, mesh: DeviceMesh | None, device: torch.device, repeats: int) -> dict:
    """Forward and backward with checkpointing and the balance loss; no optimizer."""
    dit, call = shared(case, mesh, device)
    dit.train().enable_gradient_checkpointing()

    def run() -> None:
        with record_routing(dit) as recorded:
            made = dit(**call, return_dict=False)[0]
            balance = sum(balance_loss(routing) for routing in recorded)
        (made.float().square().mean() + 0.01 * balance).backward()
        dit.zero_grad(set_to_none=True)

    return {"ms": median(run, device, repeats)}


def shared(
    case: Case, mesh: DeviceMesh | None, device: torch.device
) -> tuple[WanTransformer3DModel, dict]:
    """A transformer with random weights on all ranks of the mesh, and what it is called with."""
    heads, layers, feed_forward = MODELS[case.model]
    frames, height, width = grid_of(case.tokens)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        dit = WanTransformer3DModel(
            num_attention_heads=heads, ffn_dim=feed_forward, num_layers=layers
        )
        narrow(dit, dtype)
        latent = torch.randn(1, 16, frames, 2 * height, 2 * width, dtype=dtype)
        text = torch.randn(1, 6 * 512, 4096, dtype=dtype)
        timestep = torch.full((1,), 500.0)
    enable_moga(dit, CONFIGS[case.groups or 5], "random")
    if mesh is not None:
        share_sequence(dit, mesh, case.tokens)
    if device.type == "cuda":  # the weights were drawn in float32
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    starts = tuple(frames * shot // 6 for shot in range(6))
    spans = tuple(pairwise(range(0, 7 * 512, 512)))
    call = {"moga": ShotCall(starts, frames, spans, dense=not case.groups)}
    return dit, {
        "hidden_states": latent,
        "timestep": timestep,
        "encoder_hidden_states": text,
        "attention_kwargs": call,
    }


def narrow(dit: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """To the type that it is loaded in: what diffusers keeps in float32 stays so."""
    for name, parameter in dit.named_parameters():
        if not set(dit._keep_in_fp32_modules) & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def median(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median milliseconds. All ranks call equally often, or they would wait forever."""
    run()
    wait(device)
    found = sorted(queued(run, device, 1) for _ in range(repeats))
    return round(found[len(found) // 2], 3)


def some(tokens: int, heads: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(1, tokens, heads, 128, device=device, dtype=dtype) for _ in range(3)]


def grid_of(tokens: int) -> tuple[int, int, int]:
    return (TINY | GRIDS)[tokens]


if __name__ == "__main__":
    main()
