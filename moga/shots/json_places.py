"""Where the shots of a script in JSON stand in its text, which Python's reader does not tell.

For text that this reader has taken as JSON: nothing is checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Strings first, as all else may stand inside them.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|-?\d[\d.eE+-]*', re.DOTALL)


@dataclass(frozen=True)
class JsonShot:
    """Offsets in the text: of the shot's opening brace, behind its closing one, of its number.

    And its line, from 1.
    """

    start: int
    end: int
    line: int
    amount: tuple[int, int] | None


def shot_places(text: str) -> list[JsonShot]:
    """The objects in the list that `text` is, or in a list of the object that it is, in order."""
    places, nesting = [], ""
    start, line, amount = 0, 1, None
    for token in _TOKEN.finditer(text):
        kind = token[0][0]
        if kind in "{[":
            if kind == "{" and nesting in ("[", "{["):
                line += text.count("\n", start, token.start())
                start, amount = token.start(), None
            nesting += kind
        elif kind in "}]":
            nesting = nesting[:-1]
            if kind == "}" and nesting in ("[", "{["):
                places.append(JsonShot(start, token.end(), line, amount))
        elif kind != '"':
            amount = token.span()
    return places
