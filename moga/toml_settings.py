"""Settings from TOML text and `--section.key value` words, with a hint for every wrong name."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import MogaError

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(MogaError, ValueError):
    """Settings that cannot be used; each line of the message names one, and the fix."""


class Section(BaseModel):
    """A table of the TOML file. What it does not name is an error, not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises SettingsError."""
    if not path.is_file():
        raise SettingsError(f"CONFIG is {path}, which is not there; give a TOML file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} is not TOML ({error}); correct it.") from None


def settled(model: type[Model], data: dict[str, Any], words: Sequence[str] = ()) -> Model:
    """The settings that `data` holds, changed by `words` such as ["--stages.0.steps", "10"].

    `data` takes the words up. Raises SettingsError.
    """
    given = dict(_pairs(words))
    for key, text in given.items():
        _put(data, key, _value(text))
    for key in list(_misread(model, data, given)):
        _put(data, key, given[key])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # An element that failed makes its list too short as well; that says nothing new.
        found = [e for e in error.errors() if e["type"] != "too_short"] or error.errors()
        raise SettingsError("\n".join(_sentence(model, e) for e in found)) from None


def names(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name, with pydantic's field: what `--help` lists."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = _section(field.annotation)
        where = f"{prefix}{name}"
        if inner is None:
            found[where] = field
        else:
            found |= names(inner, f"{where}.{'0.' if 'tuple' in str(field.annotation) else ''}")
    return found


def described(model: type[BaseModel]) -> list[str]:
    """A line for every setting: its name, what it is, and the default."""
    lines = []
    for name, field in names(model).items():
        default = (
            "" if field.is_required() else f" [{field.get_default(call_default_factory=True)}]"
        )
        lines.append(f"  {name:32}{field.description or ''}{default}")
    return lines


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise SettingsError(f"{word!r} stands alone; write settings as --section.key value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise SettingsError(f"{word} has no value; write {word} value.")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _value(text: str) -> Any:
    """What a word says in TOML, and the word itself where that is nothing."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _misread(
    model: type[BaseModel], data: dict[str, Any], given: Mapping[str, str]
) -> Iterator[str]:
    """The names of settings that are text, given words that TOML takes for a number or a date."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        kinds = ("string_type", "path_type")
        texts = [".".join(map(str, e["loc"])) for e in error.errors() if e["type"] in kinds]
        for key, text in given.items():
            found = any(f"{name}.".startswith(f"{key}.") for name in texts)
            if found and not isinstance(_value(text), (list, dict)):
                yield key


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    place: Any = data
    for part in parents:
        place = _enter(place, part, dotted)
    if isinstance(place, list):
        place[_index(place, last, dotted)] = value
    else:
        place[last] = value


def _enter(place: Any, part: str, dotted: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, dotted)]
    inner = place.setdefault(part, {})
    if not isinstance(inner, (dict, list)):
        raise SettingsError(f"--{dotted} goes into {part}, which is a value; check the name.")
    return inner


def _index(place: list[Any], part: str, dotted: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise SettingsError(
            f"--{dotted} names {part!r} out of {len(place)}; give a number below {len(place)}."
        )
    return int(part)


def _sentence(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        generic = ".".join("0" if isinstance(part, int) else str(part) for part in error["loc"])
        return f"{where} is no setting; did you mean {_nearest(model, generic)}?"
    if error["type"] == "missing":
        return f"{where} is missing; add it."
    if error["type"] == "value_error":
        return f"{where + ': ' if where else ''}{error['ctx']['error']}."
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."


def _nearest(model: type[BaseModel], wrong: str) -> str:
    """The setting most like a wrong name: one with the same last part, or one spelled alike."""
    known = list(names(model))
    known += sorted({name.rsplit(".", depth)[0] for name in known for depth in (1, 2)})
    same = [name for name in known if name.rpartition(".")[2] == wrong.rpartition(".")[2]]
    return difflib.get_close_matches(wrong, same or known, 1, 0)[0]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model class in an annotation, also in `X | None` and `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        if (found := _section(inner)) is not None:
            return found
    return None
