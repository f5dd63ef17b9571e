"""Boots the first ComfyUI found in this process; runs the same tests in a child for each other."""

from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from find_comfyui import REPOSITORY, find_comfyuis
from harness.boot import boot
from harness.comfyui import ComfyUI
from harness.others import SUMMARY, NoComfyUI, OtherComfyUI, comfyui_name

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each ComfyUI."""
    folder = f"{HERE.relative_to(REPOSITORY).as_posix()}/"
    reports = [
        (category, report)
        for category, found in terminalreporter.stats.items()
        for report in found
        if isinstance(report, pytest.TestReport)
    ]
    others = [dict(r.user_properties)[SUMMARY] for _, r in reports
              if r.when == "call" and SUMMARY in dict(r.user_properties)]  # fmt: skip
    if not others:
        return
    here = [(category, r) for category, r in reports if r.nodeid.startswith(folder)]
    counts = Counter(category for category, _ in here if category)
    seconds = sum(report.duration for _, report in here)
    found = ", ".join(f"{count} {category}" for category, count in counts.items()) or "none run"
    terminalreporter.section("ComfyUI versions")
    terminalreporter.line(f"{comfyui_name(find_comfyuis()[0])}: {found} in {seconds:.2f}s")
    for line in others:
        terminalreporter.line(line)
