"""How `pytest -n` shares out the tests: folder by folder, so that what a folder's tests share is
made once and ComfyUI is booted once, and what takes longest begins first."""

from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

LONGEST = ("train", "data", "page", "comfyui", "diffusers", "benchmarks")


class ByFolder(LoadScopeScheduling):
    """A worker gets whole folders of tests. Another ComfyUI is one test, and goes by itself."""

    def _split_scope(self, nodeid: str) -> str:
        name = folder(nodeid)
        return nodeid if name is None else name


def folder(nodeid: str) -> str | None:
    """The folder of tests/ that a test's file lies in; None for what stands for a whole one."""
    file = PurePosixPath(nodeid.partition("::")[0])
    return "/".join(file.parts[1:-1]) if file.suffix else None


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """The longest folders first; tests of a folder stay as they were."""

    def place(item: pytest.Item) -> int:
        name = folder(item.nodeid)
        if name is None:
            return -1
        first = name.partition("/")[0]
        return LONGEST.index(first) if first in LONGEST else len(LONGEST)

    return sorted(items, key=place)
