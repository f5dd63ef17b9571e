"""Run by torchrun: checks that all processes of a group make together, and what came of each.

`ranks.py FOLDER MODULE`: every `check_*` of the module beside this file, each in all processes and
against what one process makes alone. Each rank writes {check: None or what went wrong}.
"""

import importlib
import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from diffusers.hooks import context_parallel
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


def main(folder: Path, module: str) -> None:
    sys.path.append(str(Path(__file__).parents[1]))
    # diffusers divides by how many accelerators there are.
    torch.accelerator.device_count = lambda: 1
    context_parallel._all_gather_anything = gather_unequal
    dist.init_process_group("cpu:gloo", timeout=timedelta(seconds=60))
    checks = vars(importlib.import_module(module))
    told = {}
    for name in [name for name in checks if name.startswith("check_")]:
        try:
            checks[name](dist.get_rank(), dist.get_world_size())
            told[name] = None
        except Exception:
            told[name] = traceback.format_exc()
        (folder / f"{dist.get_rank()}.json").write_text(json.dumps(told))
        if told[name]:
            break  # the others may wait for this one: nothing after it can be believed
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
