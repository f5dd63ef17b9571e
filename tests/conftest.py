"""Settings for all tests, and what keeps pytest from importing ComfyUI's entry point."""

import os
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Tensors here are so small that more threads only wait for one another. Before torch's import.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says nothing on a shared machine.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")


class RootIsNoPackage:
    """The repository's own ``__init__.py`` works inside ComfyUI only, and pytest would import it.

    A plugin, as hooks in this file don't see folders above it.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RootIsNoPackage())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from side_by_side import ByFolder

    config.option.loadscopereorder = False  # it would put what has most tests first
    return ByFolder(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    yield
    if hasattr(config, "workerinput"):  # one of several processes
        from side_by_side import in_order

        items[:] = in_order(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each ComfyUI."""
    from harness.others import summaries

    lines = summaries(terminalreporter.stats)
    if lines:
        terminalreporter.section("ComfyUI versions")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makers of videos: `lossless` and `mp4` from frames, `ffmpeg` from its own arguments."""
    import videos

    return SimpleNamespace(
        square=videos.moving_square,
        lossless=videos.lossless,
        mp4=videos.write_video,
        ffmpeg=videos.ffmpeg,
    )
