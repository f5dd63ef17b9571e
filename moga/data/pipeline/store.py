"""The folder of a dataset: what every stage found of every film, whole or not at all.

    records/settings.json   what it was made with
    records/sources.json    the films, in order
    records/STAGE/FILM.json what is known of a film after a stage

A record is written when its stage is through with the film, by whichever process that is, and never
changed. Whatever happens after, it is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...files import written_whole
from ...locks import Lock, LockError
from ...shots.script import shorten
from ...toml_settings import SettingsError, settled
from .records import Film, RecordError, Source, dumps, from_json, to_json
from .settings import Settings
from .stages import STAGES, Stage, before

_SHOWN = 300  # letters of what changed, in a message


class StoreError(SettingsError):
    """A folder that cannot be gone on with."""


@dataclass(frozen=True)
class Store:
    """Records of a dataset. settings: those that its stages are run with."""

    folder: Path
    settings: Settings

    @property
    def records(self) -> Path:
        return self.folder / "records"

    def sources(self) -> list[Source]:
        """The films as they were found. Raises StoreError where none were looked for yet."""
        try:
            text = (self.records / "sources.json").read_text(encoding="ascii")
            return [from_json(Source, data) for data in json.loads(text)]
        except FileNotFoundError:
            raise StoreError(
                f"{self.folder} has no films yet; run `python -m moga.data probe IN... --out "
                f"{self.folder}` first."
            ) from None

    def list_sources(self, sources: Sequence[Source]) -> int:
        """Let the dataset be made of these films. Returns how many it had that it no longer has."""
        try:
            before = {source.id for source in self.sources()}
        except StoreError:
            before = set()
        text = json.dumps([to_json(source) for source in sources], allow_nan=False)
        _write(self.records / "sources.json", text)
        return len(before - {source.id for source in sources})

    def film(self, stage: Stage, source: Source) -> Film | None:
        """What is known of a film after a stage; None where that has to be run still.

        A film that an earlier stage dropped is known as that left it.
        """
        if not source.kept:
            return Film(source)
        for earlier in before(stage):
            film = self._read(earlier, source)
            if film is None or not film.source.kept:
                return film
        return self._read(stage, source)

    def film_before(self, stage: Stage, source: Source) -> Film | None:
        """What a stage begins with; None where an earlier one was not run."""
        earlier = before(stage)
        return self.film(earlier[-1], source) if earlier else Film(source)

    def put(self, stage: Stage, film: Film) -> None:
        """Keep what a stage found. Raises OSError."""
        path = self._path(stage, film.source.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        fingerprint = self._fingerprint(stage, film.source)
        _write(path, f'{{"fingerprint": "{fingerprint}", "film": {dumps(film)}}}\n')

    def films(self) -> Iterator[Film]:
        """All films as the last stage over films left them, those that were not run left out."""
        last = [stage for stage in STAGES if stage.where != "dataset"][-1]
        for source in self.sources():
            film = self.film(last, source)
            if film is not None:
                yield film

    def _read(self, stage: Stage, source: Source) -> Film | None:
        try:
            data = json.loads(self._path(stage, source.id).read_text(encoding="ascii"))
            if data["fingerprint"] != self._fingerprint(stage, source):
                return None
            film = from_json(Film, data["film"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecordError):
            return None  # torn by a power cut, or not there: then it is made
        # The same content may have been moved since.
        return replace(film, source=replace(film.source, path=source.path, name=source.name))

    def _path(self, stage: Stage, film: str) -> Path:
        return self.records / stage.name / f"{film}.json"

    def _fingerprint(self, stage: Stage, source: Source) -> str:
        data = self.settings.of(source.name).model_dump(mode="json")
        made = [
            (part.name, part.version, _concerned(data, part)) for part in (*before(stage), stage)
        ]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def opened(folder: Path, settings: Settings, redo: str | None) -> Iterator[Store]:
    """The dataset of a folder, for this process alone.

    redo: name of the stage from which on everything is made again. Raises StoreError where another
    process works on it, where it is something else, or was made with other settings.
    """
    records = folder / "records"
    strangers = folder.is_dir() and any(folder.iterdir()) and not records.is_dir()
    if strangers or (folder.exists() and not folder.is_dir()):
        raise StoreError(f"--out is {folder}, which holds something else; give an empty folder.")
    records.mkdir(parents=True, exist_ok=True)
    lock = Lock(records / "lock")
    try:
        _take(lock, folder)
        _settle(records, settings, redo)
        for part in records.rglob(".*.part"):
            part.unlink(missing_ok=True)
        yield Store(folder, settings)
    finally:
        lock.close()


def _take(lock: Lock, folder: Path) -> None:
    try:
        if not lock.take():
            raise StoreError(f"another run works on {folder}; wait for it, or end it.")
    except LockError as error:
        print(
            f"the disk of {folder} has no locks ({error.strerror}), so a second run there would "
            "not be noticed; start one at a time.",
            flush=True,
        )


def known_settings(folder: Path) -> dict[str, Any]:
    """What a dataset was made with, as settings are read; {} for one that is not there yet."""
    try:
        return json.loads((folder / "records" / "settings.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _settle(records: Path, settings: Settings, redo: str | None) -> None:
    old, new = known_settings(records.parent), settings.plain()
    # What this version knows and an older one did not has its default there.
    old = settled(Settings, old).plain() if old else new
    names = [stage.name for stage in STAGES]
    touched = [s.name for s in STAGES if _view(old, s) != _view(new, s)]
    if touched and (redo is None or names.index(redo) > names.index(touched[0])):
        was = "; ".join(f"{w} was {a!r} and is {b!r}" for w, a, b in list(_changes(old, new)))
        raise StoreError(
            f"{records.parent} was made with other settings ({shorten(was, _SHOWN)}); give --redo "
            f"{touched[0]} to make it again from there on, the settings it has, or another --out."
        )
    if redo is not None:
        for name in names[names.index(redo) :]:
            shutil.rmtree(records / name, ignore_errors=True)
    _write(records / "settings.json", json.dumps(new, indent=1))


def _view(plain: dict[str, Any], stage: Stage) -> tuple[Any, ...]:
    """What of some settings concerns a stage."""
    overrides = [
        (one["match"], part) for one in plain["sources"]
        if (part := _concerned(one, stage))
    ]  # fmt: skip
    return _concerned(plain, stage), overrides


def _concerned(plain: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """The settings that a stage is made with, by the names that it has for them."""
    found = {}
    for name in stage.sections:
        section, _, key = name.partition(".")
        values = plain.get(section, {})
        if section in plain and (not key or key in values):
            found[name] = values[key] if key else values
    return found


def _changes(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old value and new one of all that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _changes(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield where, old, new


def _write(path: Path, text: str) -> None:
    try:
        with written_whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:  # of a full disk the system does not say where
        raise OSError(error.errno, error.strerror, str(path)) from None
