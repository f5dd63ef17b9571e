"""Memory that is free goes back to the system while a long video is decoded on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moga.vae import host_memory

MB = 2**20

# A thread's heap full of holes, as ComfyUI's own thread has it, then a decode in it.
DECODE = """
import re, sys, threading
from pathlib import Path
import torch
from moga.vae import decode, host_memory

host_memory.EVERY = 0.0
at_frame = []

class Vae(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = torch.nn.Identity()
    def decode(self, latent):
        return torch.cat([self.decoder(latent[:, :, t:t + 1]) for t in range(latent.shape[2])], 2)

def held():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", status)[1]) // 1024

def run():
    blocks = [torch.ones(2**16) for _ in range(2000)]  # of 256 kB
    del blocks[::2]
    before = held()
    sink = lambda frames: at_frame.append(before - held())
    decode.stream_decode(Vae(), torch.zeros(1, 3, 4, 2, 2), sink)
    print(at_frame[0], at_frame[-1], before - held(), len(blocks))

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_what_is_free_is_given_back_while_decoding():
    if not Path("/proc/self/status").exists() or host_memory._trim().__name__ != "malloc_trim":
        pytest.skip("GNU's C library on Linux keeps what is freed; others do not")
    path = os.pathsep.join(filter(None, sys.path))
    # So that blocks of this size come from the heap, as they do once larger ones were freed.
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": str(32 * MB)}
    run = subprocess.run(
        [sys.executable, "-c", DECODE], capture_output=True, text=True, check=True, env=environment
    )
    first, last, after, _ = map(int, run.stdout.split())
    assert first < 50 and last > 200 and after > 200  # of 250 MB


def test_no_harm_where_there_is_no_such_call(monkeypatch):
    for error in (AttributeError, OSError, TypeError):

        def missing(name, error=error):
            raise error

        host_memory._trim.cache_clear()
        monkeypatch.setattr(host_memory.ctypes, "CDLL", missing)
        host_memory.give_back()
    host_memory._trim.cache_clear()
