"""Boots the first ComfyUI found in this process; runs the same tests in a child for each other."""

import os
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
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


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    others = [item for item in session.items if isinstance(item, OtherComfyUI)]
    option = session.config.option
    broken = session.testsfailed and not option.continue_on_collection_errors
    if option.collectonly or broken or not others:
        return (yield)
    # Beside the tests in this process, which also keep a core busy.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as pool:
        for item in others:
            item.start(pool)
        try:
            return (yield)
        finally:
            for item in others:
                item.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each ComfyUI."""
    session = terminalreporter._session
    others = [item for item in session.items if isinstance(item, OtherComfyUI)]
    if not any(item.future for item in others):
        return
    here = {item.nodeid for item in ours(session.items)}
    reports = [
        (category, report)
        for category, found in terminalreporter.stats.items()
        for report in found
        if isinstance(report, pytest.TestReport) and report.nodeid in here
    ]
    counts = Counter(category for category, _ in reports if category)
    seconds = sum(report.duration for _, report in reports)
    found = ", ".join(f"{count} {category}" for category, count in counts.items()) or "none run"
    terminalreporter.section("ComfyUI versions")
    terminalreporter.line(f"{comfyui_name(find_comfyuis()[0])}: {found} in {seconds:.2f}s")
    for item in others:
        terminalreporter.line(item.summary)
