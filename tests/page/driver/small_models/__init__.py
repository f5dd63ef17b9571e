"""A custom node pack without nodes: tiny models under the names that the shipped workflows ask for.

It is loaded by the ComfyUI under test, where core's loaders have to build those sizes.
"""

import importlib
import os
import sys
import threading
from pathlib import Path

import folder_paths
from harness import tiny
from harness.workflow import install_models
from safetensors.torch import save_file

NODE_CLASS_MAPPINGS: dict[str, type] = {}


class Models:
    """As much of the tests' ComfyUI as install_models needs."""

    module = staticmethod(importlib.import_module)

    @staticmethod
    def add_model(folder: str, filename: str, state_dict: dict, metadata=None) -> None:
        path = Path(folder_paths.get_folder_paths(folder)[0]) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in state_dict.items()}, path, metadata)


def end_with_the_tests() -> None:
    """Their end of the pipe closes however they end."""
    sys.stdin.read()
    os._exit(0)


install_models(Models)
small = tiny.small_models()
small.__enter__()  # until the process ends
threading.Thread(target=end_with_the_tests, daemon=True).start()
