"""Settings for all tests, and what keeps pytest from importing ComfyUI's entry point."""

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

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
    # A process that tests another ComfyUI may be started while a test has its files small.
    with contextlib.suppress(ImportError):  # Windows
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


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
