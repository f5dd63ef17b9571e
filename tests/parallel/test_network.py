"""What is said of processes that don't find, or no longer hear, each other."""

import socket

import pytest
import torch
from torch import distributed as dist

from moga.parallel.network import NetworkError, backend_failed, check_gpus, is_apart, is_network

NCCL = "NCCL error in: /pytorch/ProcessGroupNCCL.cpp:3690, {kind}, NCCL version 2.28\n{kind}: ...\n"


def test_a_lost_process_and_a_broken_nccl_are_told_apart():
    lost = dist.DistBackendError(NCCL.format(kind="ncclRemoteError: remote process exited"))
    assert is_network(lost) and backend_failed(lost) is None
    broken = NCCL.format(kind="unhandled system error")
    broken += "Last error:\nError while creating shared memory segment (size 33030528)"
    broken = dist.DistBackendError(broken)
    assert not is_network(broken)
    words = str(backend_failed(broken))
    assert "can't exchange data (Error while creating shared memory segment" in words
    assert words.endswith("NCCL_DEBUG=INFO in the environment says more.")


@pytest.mark.parametrize("error", [
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed"),
    dist.DistNetworkError("failed to recv, got 0 bytes"),
    dist.DistStoreError("timed out"),
])  # fmt: skip
def test_what_says_that_another_is_lost(error):
    assert is_network(error)


@pytest.mark.parametrize(("error", "apart"), [
    (dist.DistStoreError("wait timeout after 3000ms"), True),
    (RuntimeError("The client socket has failed to connect to any network address"), True),
    (RuntimeError("[/pytorch/gloo/transport/tcp/device.cc:83] could not resolve hostname"), True),
    (socket.gaierror(-2, "Name or service not known"), True),
    (PermissionError(13, "Permission denied", "training"), False),
    (ValueError("bf16 mixed precision requires PyTorch >= 1.10 and a supported device."), False),
    (RuntimeError("CUDA out of memory."), False),
])  # fmt: skip
def test_what_says_that_processes_do_not_find_each_other(error, apart):
    assert is_apart(error) == apart


def test_what_says_nothing_of_others():
    for error in (
        RuntimeError("shapes differ"),
        ValueError("NCCL"),
        NetworkError("gloo/transport"),
    ):
        assert not is_network(error) and backend_failed(error) is None


def test_a_gpu_for_each_process(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    check_gpus()  # none needed where there are none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(NetworkError, match=r"4 processes .* with 2 GPUs, .*; start 2\."):
        check_gpus()
