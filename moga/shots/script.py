"""The syntax of a shot script: text or JSON, read into plain pieces.

Only the form is judged here; what a caption or a duration may be is `moga.shots`' business, so that
both forms and shots made in Python obey the same rules and give the same messages.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from .durations import DurationError, find_duration, read_duration
from .json_places import shot_places
from .lookalikes import SETTINGS, misread
from .refusal import ShotScriptError, located

# Only these end a line: U+2028 and its like, at which str.splitlines would cut, are caption text.
_LINE_END = re.compile(r"\r\n?|\n")
_LOOKS_LIKE_JSON = re.compile(r'\s*(\{\s*"|\[\s*\{)')
_COMMENT = re.compile(r"#(\s|$)")
_DIRECTIVE = re.compile(r"(\w[\w-]*)\s*[:\uff1a]")
_ONCE = ("global", "negative")  # directives: lines, and keys in JSON, that stand once
_OPENING, CLOSING = "[\uff3b\u3010", re.compile("[\\]\uff3d\u3011]")
_LOOKS_LIKE_NUMBER = re.compile(r"[-+\u2212~\u2248]?\s*[.,]?\d")


def one_line(text: str) -> str:
    """`text` stripped, each line break in it (with the white space around it) made one space."""
    lines = (line.strip() for line in _LINE_END.split(text))
    return " ".join(line for line in lines if line)


def shorten(text: str, limit: int) -> str:
    """At most `limit` printable characters of `text`, in one line."""
    start = text[: 4 * limit]  # a caption can hold megabytes; runs of white space need some slack
    start = start.encode("utf-8", "replace").decode("utf-8")
    start = "".join(" " if unicodedata.category(c) == "Cc" else c for c in start)
    start = " ".join(start.split())
    if len(start) <= limit and len(text) <= 4 * limit:
        return start
    return start[: limit - 1].rstrip() + "…"


def show(value: object) -> str:
    """`value` as an error message quotes it: short, in one line, in JSON's words."""
    if isinstance(value, str):
        return f'"{shorten(value, 40)}"'
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, Fraction)):
        # Through Decimal, because str() refuses an int of more than a few thousand digits.
        value = "/".join(str(Decimal(part)) for part in value.as_integer_ratio()).removesuffix("/1")
    if isinstance(value, (str, float, Decimal)):
        return shorten(str(value), 40)
    return {_Object: "an object", list: "a list"}.get(type(value), f"a {type(value).__name__}")


@dataclass
class Passage:
    """One shot as the script has it: where it stands, and what it gives to `Shot` by name."""

    where: str
    fields: dict[str, Any]
    line: int | None  # where it opens, from 1


@dataclass
class Script:
    """A script as read: the texts of its directives, by name, and the shots; nothing is checked."""

    once: dict[str, Any] = field(default_factory=dict)
    shots: list[Passage] = field(default_factory=list)


def read_script(text: str) -> Script:
    """Read either form; `ShotScriptError` names the line (and the column, in JSON) of a mistake."""
    text = plain_lines(text)
    return _read_json(text) if looks_like_json(text) else _read_text(text)


def plain_lines(text: str) -> str:
    """`text` as it is read: lines end in a line feed, and no byte order mark goes before them."""
    return _LINE_END.sub("\n", text.lstrip("\ufeff"))


def looks_like_json(text: str) -> bool:
    return bool(_LOOKS_LIKE_JSON.match(text))


# --- text form -----------------------------------------------------------------------------------


@dataclass
class _Block:
    """A run of lines opened by a directive such as `global:`, or by a duration in brackets."""

    line: int
    opened: str | dict[str, Decimal]
    lines: list[str]


def _read_text(text: str) -> Script:
    script = Script()
    for block in _blocks(text):
        where, caption = f"script line {block.line}", " ".join(block.lines).strip()
        if isinstance(block.opened, dict):
            fields = {"caption": caption, **block.opened}
            script.shots.append(Passage(where, fields, block.line))
        elif caption:
            script.once[block.opened] = caption
        else:
            problem = f"{block.opened}: is empty; write its text or remove the line."
            raise ShotScriptError(f"{where}: {problem}", block.line)
    return script


def _blocks(text: str) -> list[_Block]:
    """Each line opens a block or continues the one before; blank lines and comments are dropped."""
    blocks: list[_Block] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or _COMMENT.match(line):
            continue
        with located(f"script line {number}", number):
            block = _open_shot(number, line) or _open_once(number, line, blocks)
            refuse_durations(block.lines[0] if block else line)
            if block:
                blocks.append(block)
            elif mistake := misread(line):
                raise ShotScriptError(f"{show(mistake[0])} {mistake[1]}")
            elif blocks:
                blocks[-1].lines.append(line)
            else:
                raise _stray(line)
    return blocks


def refuse_durations(text: str) -> None:
    """Raise `ShotScriptError` for caption text that holds what opens a shot, such as `[4s]`."""
    if found := find_duration(text):
        raise ShotScriptError(
            f"{show(found)} opens a shot only where a line begins; begin a line with it, or leave "
            "its brackets out."
        )


def _open_shot(number: int, line: str) -> _Block | None:
    """The shot that `line` opens; None unless the line begins with a bracket and a number."""
    if line[0] not in _OPENING or not _LOOKS_LIKE_NUMBER.match(line[1:].lstrip()):
        return None
    closing = CLOSING.search(line)
    if not closing:
        raise ShotScriptError(f"{show(line)} has no closing bracket; write [4s] or [97f].")
    inside = line[1 : closing.start()].strip()
    try:
        return _Block(number, read_duration(inside), [line[closing.end() :]])
    except DurationError as error:
        raise ShotScriptError(f"{show(f'[{inside}]')} {error}") from None


def _open_once(number: int, line: str, blocks: list[_Block]) -> _Block | None:
    """The text that `line` opens with a directive; None if it begins with none."""
    match = _DIRECTIVE.match(line)
    name = match[1].lower() if match else ""
    if name not in _ONCE:
        return None
    for block in blocks:
        if block.opened == name:
            fix = f"merge it with the one on line {block.line}"
        elif isinstance(block.opened, dict):
            fix = f"move it above the first shot (line {block.line})"
        else:
            continue
        raise ShotScriptError(f"{name}: stands once, before the first shot; {fix}.")
    return _Block(number, name, [line[match.end() :]])


def _stray(line: str) -> ShotScriptError:
    """The error for a line that stands before the first shot and belongs to nothing."""
    if match := _DIRECTIVE.match(line):
        return ShotScriptError(
            f"unknown directive {show(match[1] + ':')}; only global: and negative: exist, "
            "so write one of them or move the text behind a duration such as [4s]."
        )
    return ShotScriptError(
        f"{show(line)} stands before the first shot; begin the line with a duration such as [4s], "
        "or with global: for text that every shot shares."
    )


# --- JSON form -----------------------------------------------------------------------------------


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key given twice is seen where the object is known."""


def _read_json(text: str) -> Script:
    document = _decode(text)
    if isinstance(document, _Object):
        with located("script"):
            document = _fields(document, (*_ONCE, "shots"))
    else:
        document = {"shots": document}
    shots = document.get("shots", [])
    if not isinstance(shots, list) or isinstance(shots, _Object):
        raise ShotScriptError(f"script: shots is {show(shots)}; give a list of shots.")
    lines = [place.line for place in shot_places(text)]
    lines = lines if len(lines) == len(shots) else [None] * len(shots)
    numbered = enumerate(zip(shots, lines, strict=True), start=1)
    passages = [_read_shot(f"script shot {i}", shot, line) for i, (shot, line) in numbered]
    return Script({name: document[name] for name in _ONCE if name in document}, passages)


def _decode(text: str) -> Any:
    try:
        return json.loads(
            text,
            strict=False,  # a raw tab or line break in a caption is as welcome as in the text form
            object_pairs_hook=_Object,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_number,  # NaN and Infinity, which no number field accepts
        )
    except json.JSONDecodeError as error:
        problem = error.msg[:1].lower() + error.msg[1:]
        raise ShotScriptError(
            f"script line {error.lineno}, column {error.colno}: not valid JSON ({problem}); "
            "check the quotes, commas and brackets there.",
            error.lineno,
            error.colno,
        ) from None
    except RecursionError:
        raise ShotScriptError(
            "script: JSON is nested too deeply; give a list of shots, or an object that holds one."
        ) from None


def _number(text: str) -> Decimal:
    """A JSON number exactly, and without int()'s limit on digits."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ShotScriptError(
            f"script: the number {shorten(text, 40)} is out of range; write a plain one such as 4."
        ) from None


def _read_shot(where: str, shot: object, line: int | None) -> Passage:
    with located(where, line):
        if not isinstance(shot, _Object):
            raise ShotScriptError(
                f'this is {show(shot)}; write {{"caption": "...", "seconds": 4}}.'
            )
        fields = _fields(shot, ("caption", "seconds", "frames"))
        if "caption" not in fields:
            raise ShotScriptError('caption is missing; add "caption": "what the shot shows".')
        for name, value in fields.items():
            if value is None:
                raise ShotScriptError(f"{name} is null; give it a value or leave the key out.")
    return Passage(where, fields, line)


def _fields(pairs: Iterable[tuple[str, Any]], known: tuple[str, ...]) -> dict[str, Any]:
    """The object as a dict whose keys are all `known` and given once."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key not in known:
            raise ShotScriptError(f"unknown key {show(key)}; {_key_fix(key, known)}")
        if key in fields:
            raise ShotScriptError(f"key {show(key)} stands twice; keep one.")
        fields[key] = value
    return fields


def _key_fix(key: str, known: tuple[str, ...]) -> str:
    for setting in SETTINGS:
        if setting.is_key(key):
            return setting.json_fix or setting.fix
    near = difflib.get_close_matches(key[:40].lower(), known, n=1)
    return f"did you mean {show(near[0])}?" if near else f"use {', '.join(known)}."
