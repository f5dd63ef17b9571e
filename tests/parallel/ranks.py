"""Run by torchrun: checks that all processes of a group make together, and what came of each.

`ranks.py FOLDER`: every `check_*` of every `*_checks.py` beside this file, each in all processes,
and against what one process makes alone. Each rank writes {check: None or what went wrong}. With
MOGA_CHECKS_ON=cuda every rank has a GPU, and NCCL between them.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
from diffusers.hooks import context_parallel
from place import DEVICE
from torch import distributed as dist


def gather_unequal(tensor: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    """What NCCL does and gloo does not: gather parts that are not all of one size."""
    sizes: list[int] = [0] * dist.get_world_size(group)
    dist.all_gather_object(sizes, tensor.shape[dim], group)
    padded = tensor.new_zeros([max(sizes), *tensor.movedim(dim, 0).shape[1:]])
    padded[: tensor.shape[dim]] = tensor.movedim(dim, 0)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group)
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return whole.movedim(0, dim).contiguous()


def main(folder: Path) -> None:
    sys.path.append(str(Path(__file__).parents[1]))
    if DEVICE.type == "cuda":
        torch.cuda.set_device(DEVICE)
        torch.backends.cudnn.allow_tf32 = False  # numbers are compared in float32
        backend = "cpu:gloo,cuda:nccl"
    else:
        # diffusers divides by how many accelerators there are.
        torch.accelerator.device_count = lambda: 1
        context_parallel._all_gather_anything = gather_unequal
        backend = "cpu:gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=5))
    told = {}
    for name, check in checks():
        try:
            check(dist.get_rank(), dist.get_world_size())
            told[name] = None
        except Exception:
            told[name] = traceback.format_exc()
        (folder / f"{dist.get_rank()}.json").write_text(json.dumps(told))
        if told[name]:
            break  # the others may wait for this one: nothing after it can be believed
        dist.barrier()
    dist.destroy_process_group()


def checks() -> Iterator[tuple[str, Callable[[int, int], None]]]:
    for file in sorted(Path(__file__).parent.glob("*_checks.py")):
        for name, check in list(vars(importlib.import_module(file.stem)).items()):
            if name.startswith("check_"):
                yield f"{file.stem}.{name}", check


if __name__ == "__main__":
    main(Path(sys.argv[1]))
