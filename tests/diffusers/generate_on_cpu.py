"""`python -m moga.generate`, in a process in which diffusers shares a sequence on a CPU.

It can; it only divides by how many accelerators there are.
"""

import runpy

import torch

torch.accelerator.device_count = lambda: 1
runpy.run_module("moga.generate", run_name="__main__", alter_sys=True)
