"""Blocks that are computed again: what is kept of them until then."""

import pytest
import torch
from tiny_wan import make_call, make_wan
from torch import autocast
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from moga.train.recompute import CHECKPOINTING


class Casts(TorchDispatchMode):
    """Remembers every copy of a matrix in bfloat16, without keeping it."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        cast = function is torch.ops.aten._to_copy.default and out.dtype == torch.bfloat16
        if cast and out.ndim == 2:
            self.made.append((StorageWeakRef(out.untyped_storage()), out.numel()))
        return out

    def held(self):
        return sum(numel for ref, numel in self.made if not ref.expired())


@pytest.mark.parametrize("how", CHECKPOINTING.values())
def test_autocast_keeps_no_copy_of_weights_whose_block_is_done(how):
    dit = make_wan(num_layers=6).train().requires_grad_(True)
    dit.enable_gradient_checkpointing(how)
    casts, held = Casts(), []
    dit.proj_out.register_forward_pre_hook(lambda *_: held.append(casts.held()))
    with casts:
        with autocast("cpu", torch.bfloat16):
            out = dit(**make_call(), return_dict=False)[0]
        out.float().square().mean().backward()
    block = sum(p.numel() for p in dit.blocks[0].parameters() if p.ndim == 2)
    assert sum(numel for _, numel in casts.made) > 12 * block  # each block's, twice
    assert len(held) == 1 and held[0] < block


def test_gradients_are_those_of_blocks_that_are_kept():
    """To the bit."""
    found = []
    for how in (None, *CHECKPOINTING.values()):
        dit = make_wan().train().requires_grad_(True)
        if how is not None:
            dit.enable_gradient_checkpointing(how)
        with autocast("cpu", torch.bfloat16):
            out = dit(**make_call(), return_dict=False)[0]
        out.float().square().mean().backward()
        found.append([p.grad for p in dit.parameters()])
    for other in found[1:]:
        for mine, grad in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, grad, rtol=0, atol=0)
