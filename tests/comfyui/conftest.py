"""Boots the first ComfyUI found in this process; runs the same tests in a child for each other."""

from collections.abc import Generator
from pathlib import Path

import pytest
from find_comfyui import REPOSITORY, find_comfyuis
from harness.boot import boot
from harness.comfyui import ComfyUI
from harness.others import NoComfyUI, OtherComfyUI, comfyui_name

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> ComfyUI:
    """The ComfyUI under test, booted once. See harness/comfyui.py for what it can do."""
    root = find_comfyuis()[0]
    return boot(root, tmp_path_factory.mktemp("comfyui"), REPOSITORY)


def ours(items: list[pytest.Item]) -> list[pytest.Item]:
    """Those that run in this process."""
    kinds = (NoComfyUI, OtherComfyUI)
    return [i for i in items if i.path.is_relative_to(HERE) and not isinstance(i, kinds)]


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    for item in ours(items):
        item.add_marker("comfyui")
    yield  # -k and -m choose
    chosen = ours(items)
    if not chosen:
        return
    try:
        roots = find_comfyuis()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    folder = next(node for node in chosen[0].listchain() if node.path == HERE)
    if not roots:
        items[:] = [item for item in items if item not in chosen]
        items.append(NoComfyUI.from_parent(folder, name="all tests"))
    node_ids = [item.nodeid for item in chosen]
    for root in roots[1:]:
        name = comfyui_name(root)
        items.append(OtherComfyUI.from_parent(folder, name=name, root=root, node_ids=node_ids))
