"""Fields in a file name: `%date:yyyy-MM-dd%` and `%KSampler.seed%`.

The browser fills these in for the save nodes that it knows, so here the server does, in the same
form. Those that need no prompt (`%year%`, `%width%`) ComfyUI's Python fills in itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

FILLED_BY_CORE = ("width", "height", "year", "month", "day", "hour", "minute", "second")

# What is between two % is a field when it is one of these; "50% of 100%" holds none.
_FIELD = re.compile(r"%(date:[^%]*|[^%.]+\.[^%.]+|\w+)%")
_DATE = re.compile(r"%date:([^%]*)%")
_DATE_PART = re.compile(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|yyyy|yy")
_PARTS = {"d": "day", "M": "month", "h": "hour", "m": "minute", "s": "second"}
_NOT_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def fill_widgets(prefix: str, value: Callable[[str, str], str]) -> str:
    """`prefix` with the values of widgets filled in; what else can be filled in is left.

    value: gives what stands for `%node.widget%`, as `WidgetValues` does. Raises ValueError for a
    field that nobody fills in: it would end up in the name as it is.
    """

    def fill(match: re.Match[str]) -> str:
        field = match[1]
        if field in FILLED_BY_CORE or field.startswith("date:"):
            return match[0]
        node, dot, widget = field.partition(".")
        if dot:
            return _NOT_IN_NAMES.sub("_", value(node, widget))
        raise ValueError(
            f"filename_prefix {prefix!r} has %{field}%, which nothing fills in; use "
            f"{', '.join(f'%{name}%' for name in FILLED_BY_CORE)}, %date:yyyy-MM-dd% or "
            "%KSampler.seed%, or leave out the %."
        )

    return _FIELD.sub(fill, prefix)


def fill_dates(prefix: str, now: datetime) -> str:
    """`prefix` with its dates filled in.

    In a date yyyy and yy are the year, and M, d, h, m and s month, day, hour, minute and second:
    doubled they have two digits. All other letters are themselves.
    """

    def part(match: re.Match[str]) -> str:
        letters = match[0]
        if letters[0] == "y":
            return f"{now.year:04}"[-len(letters) :]
        return f"{getattr(now, _PARTS[letters[0]]):0{len(letters)}}"

    return _DATE.sub(lambda date: _DATE_PART.sub(part, date[1]), prefix)


class WidgetValues:
    """The values of a prompt's widgets, by the name of their node.

    As in the browser, a node is called by its "Node name for S&R", which is its type unless
    somebody changed it, or else by its title; of several the first one counts.
    """

    def __init__(self, prompt: Any, extra_pnginfo: Any) -> None:
        self._prompt = prompt if isinstance(prompt, Mapping) else {}
        workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, Mapping) else None
        self._named = dict(_named_nodes(workflow)) if isinstance(workflow, Mapping) else {}

    def __call__(self, node: str, widget: str) -> str:
        """Raises ValueError when there is no such node or widget."""
        inputs = self._inputs(node)
        if inputs is None:
            raise ValueError(
                f"filename_prefix has %{node}.{widget}%, and no node of this workflow is called "
                f"{node!r}; give its type or its title, or leave the field out."
            )
        if widget not in inputs or isinstance(inputs[widget], list):
            typed = (name for name, given in inputs.items() if not isinstance(given, list))
            raise ValueError(
                f"filename_prefix has %{node}.{widget}%, and {node!r} has no value of its own for "
                f"{widget!r}; choose one of {', '.join(typed) or 'another node'}."
            )
        return _as_browser(inputs[widget])

    def _inputs(self, name: str) -> Mapping[str, Any] | None:
        for called in (self._type, self._title):
            for key, node in self._prompt.items():
                if called(key, node) == name:
                    return node.get("inputs", {})
        return None

    def _type(self, key: str, node: Mapping[str, Any]) -> str | None:
        return self._named.get(key) or node.get("class_type")

    @staticmethod
    def _title(key: str, node: Mapping[str, Any]) -> str | None:
        meta = node.get("_meta")
        return meta.get("title") if isinstance(meta, Mapping) else None


def _named_nodes(workflow: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names that nodes of the graph itself were given, by their id in the prompt."""
    nodes = workflow.get("nodes")
    for node in nodes if isinstance(nodes, list) else ():
        properties = node.get("properties") if isinstance(node, Mapping) else None
        if isinstance(properties, Mapping) and properties.get("Node name for S&R"):
            yield str(node.get("id")), str(properties["Node name for S&R"])


def _as_browser(value: Any) -> str:
    """A value as JavaScript writes it: true, 4 for 4.0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
