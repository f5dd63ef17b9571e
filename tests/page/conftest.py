"""One server and one browser for all tests here, a fresh page for each; skipped in one line."""

import functools
import importlib.util
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from driver.server import ComfyServer
from find_comfyui import (
    HOW_TO,
    find_chromium,
    find_comfyuis,
    frontend,
    frontend_folder,
    read_version,
)

HERE = Path(__file__).resolve().parent
# As root, in a container, offline: nothing here needs what these turn off.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESIGNS = {"classic": False, "nodes 2.0": True}  # how the page draws nodes: a setting of it


class NoPage(pytest.Item):
    """Stands for all tests here when something is missing."""

    def runtest(self) -> None:
        pytest.skip(missing())


@functools.cache
def missing() -> str:
    """What these tests need and isn't there, in one sentence; empty when all is."""
    if not find_comfyuis():
        return HOW_TO
    if not find_chromium():
        return "no Chromium found for tests in ComfyUI's page: install one (apt install chromium)"
    if not importlib.util.find_spec("playwright"):
        return "no playwright for tests in ComfyUI's page: make setup installs it"
    if not with_pages():
        wanted = ", ".join(sorted({frontend(root) for root in find_comfyuis()}))
        return f"no {wanted} for tests in ComfyUI's page: make setup installs it"
    return ""


@functools.cache
def with_pages() -> list[Path]:
    """The ComfyUIs whose page is installed, newest first."""
    found = [root for root in find_comfyuis() if frontend_folder(root).is_dir()]
    return sorted(found, key=read_version, reverse=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" not in metafunc.fixturenames:
        return
    every = metafunc.definition.get_closest_marker("every_comfyui")
    try:
        roots = [] if missing() else with_pages()[: None if every else 1]
    except ValueError:  # which is told below
        roots = []
    names = [".".join(map(str, read_version(root))) for root in roots]
    metafunc.parametrize("server", roots, ids=names, indirect=True, scope="package")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker("page")
    yield  # -k and -m choose
    ours = [item for item in items if item in ours]
    if not ours:
        return
    try:
        lacking = missing()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if lacking:
        folder = next(node for node in ours[0].listchain() if node.path == HERE)
        items[:] = [item for item in items if item not in ours]
        items.append(NoPage.from_parent(folder, name="all tests"))


@pytest.fixture(scope="package")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """ComfyUI's server, the newest ComfyUI's unless a test runs in every one."""
    found = ComfyServer(request.param, tmp_path_factory.mktemp("page"))
    try:
        found.wait_until_up()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, server: ComfyServer, browser: Any) -> Iterator[Any]:
    """ComfyUI's page, opened just now: see driver/page.py for what it can do."""
    from driver.page import ComfyPage

    design = getattr(request, "param", "classic")
    if design == "nodes 2.0" and server.version < (0, 4):
        pytest.skip("this ComfyUI only tries out Nodes 2.0: no videos on them")
    server.reset({"Comfy.VueNodes.Enabled": DESIGNS[design]})
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    page = ComfyPage(context.new_page(), server.url)
    start = server.log_size
    page.open()
    yield page
    # Shown with a test that failed.
    print("\n".join(["Errors in the browser's console:", *page.console_errors]))
    print(f"ComfyUI's log:\n{server.log(start)}")
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.when == "call" and report.failed and page is not None:
        picture = item.funcargs["server"].base / f"{item.name}.png"
        page.screenshot(picture)
        report.sections.append(("ComfyUI's page when the test failed", str(picture)))
    return report
