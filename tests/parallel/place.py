"""Where a rank's checks take place: a CPU, or a GPU of its own."""

import os

import torch

DEVICE = torch.device("cpu")
if os.environ.get("MOGA_CHECKS_ON") == "cuda":
    DEVICE = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
