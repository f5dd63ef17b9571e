"""The average of weights: of whole ones, of spread ones, of those kept in the host's memory."""

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from moga.train.ema import Ema


@pytest.fixture(params=["whole", "spread", "in the host's memory"])
def weights(request):
    """A parameter as it comes, spread over a process, or over a card from which it is kept away.

    The latter as FSDP2 leaves it that offloads; no card is needed as long as nothing goes there.
    """
    made = torch.randn(4, 6)
    if request.param == "whole":
        yield {"weight": nn.Parameter(made)}
        return
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    mesh = DeviceMesh("cuda", torch.tensor([0]), _init_backend=False)
    if request.param == "spread":
        mesh = init_device_mesh("cpu", (1,))
    meta = TensorMeta(made.shape, made.stride(), made.dtype)
    spread = DTensor(made, DTensorSpec(mesh, (Shard(0),), meta), requires_grad=False)
    yield {"weight": nn.Parameter(spread)}
    dist.destroy_process_group()


def local(tensor):
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def test_what_is_written_into_its_tensors_is_the_average(weights):
    """A training that goes on reads them so: into a copy they would be read for nothing."""
    ema, weight = Ema(weights, 0.999), weights["weight"]
    before, average = local(weight).clone(), ema.tensors()["weight"]
    assert type(average) is type(weight.data)
    torch.testing.assert_close(local(average), before, rtol=0, atol=0)
    average.fill_(3.0)
    with ema.applied():
        assert (local(weight) == 3).all()
    torch.testing.assert_close(local(weight), before, rtol=0, atol=0)


def test_it_follows_the_weights(weights):
    ema = Ema(weights, 0.5)
    local(weights["weight"]).fill_(1.0)
    for _ in range(60):
        ema.step()
    average = local(ema.tensors()["weight"])
    torch.testing.assert_close(average, torch.ones_like(average))
