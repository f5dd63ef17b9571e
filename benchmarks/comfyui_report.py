"""The results of comfyui.py as tables (Markdown).

    python benchmarks/comfyui_report.py benchmarks/results/comfyui-cuda.json

Writes comfyui-cuda.md beside it, and keeps what somebody wrote below the tables. The first two
tables are those of README ("what runs where") and of the help page of Apply MoGA; all of them hold
what was measured, and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report_markdown import row, write

Row = dict[str, Any]
WHOLE = 0  # the column of a card that was not limited


def tables(result: dict) -> str:
    """Of each ComfyUI on each card by itself."""
    lines = ["# A real ComfyUI with this pack", ""]
    lines += [f"{what}: {value}  " for what, value in result["machine"].items()]
    rows = result["rows"]
    for place in dict.fromkeys((r["ComfyUI"], r["device"]) for r in rows):
        here = [r for r in rows if (r["ComfyUI"], r["device"]) == place]
        lines += ["", f"## ComfyUI {place[0]} on {place[1]}"]
        for title, make in TABLES.items():
            if table := list(make(here)):
                lines += ["", f"### {title}", "", *table]
    return "\n".join(lines) + "\n"


def of_case(rows: list[Row], *cases: int) -> list[Row]:
    return [r for r in rows if r["case"] in cases and r["kind"] == "speed"]


def what_runs_where(rows: list[Row]) -> Iterator[str]:
    """Seconds a step by model, frames and way, in a column for each size of card."""
    found = [r for r in of_case(rows, 1, 3) if not r["arguments"]]
    cards = sorted({r["card"] or WHOLE for r in found}, key=lambda card: card or float("inf"))
    if not found:
        return
    names = [f"{card} GB" if card else "whole card" for card in cards]
    yield from _head(["model", "type", "frames", "attention", *names])
    for key in dict.fromkeys((r["model"], r["dtype"], r["frames"], r["way"]) for r in found):
        cells = []
        for card in cards:
            at = [r for r in found if _key(r) == key and (r["card"] or WHOLE) == card]
            cells.append(_cell(at[-1]) if at else "-")
        yield row(*key, *cells)
    yield ""
    yield "Seconds a step with cfg, and GB of the card that were used by the driver's count; "
    yield '"no": out of memory. -: not measured.'


def _key(r: Row) -> tuple:
    return r["model"], r["dtype"], r["frames"], r["way"]


def _cell(r: Row) -> str:
    if "error" in r:
        return "no" if "memory" in r["error"].lower() else "error"
    return f"{_step(r):.2f} s, {r.get('driver peak GB', '-')} GB"


def _step(r: Row) -> float:
    """Of the steps after the first; of that one where there was no other."""
    return r["step s"] or r["first step s"]


def speed_ups(rows: list[Row]) -> Iterator[str]:
    """How many times faster than stock a step is: of whole cards."""
    found = [r for r in of_case(rows, 1) if r["card"] is None and "error" not in r]
    stock = {_key(r)[:3]: _step(r) for r in found if r["way"] == "stock"}
    ways = list(dict.fromkeys(r["way"] for r in found if r["way"] != "stock"))
    if not stock or not ways:
        return
    yield from _head(["model", "type", "frames", "stock, s a step", *ways])
    for key, seconds in stock.items():
        steps = {r["way"]: _step(r) for r in found if _key(r)[:3] == key}
        gains = (f"{seconds / steps[way]:.2f} x" if way in steps else "-" for way in ways)
        yield row(*key, round(seconds, 3), *gains)


COLUMNS = ("first step s", "step s", "allocator peak GB", "driver peak GB", "estimate GB",
           "used GB", "loaded GB", "weights GB", "host peak GB", "left bytes")  # fmt: skip


def times(rows: list[Row]) -> Iterator[str]:
    found = [r for r in rows if r["kind"] == "speed" and "error" not in r]
    if not found:
        return
    yield from _head(["job", "way", *COLUMNS])
    for r in found:
        yield row(r["job"], r["way"], *(r.get(column) for column in COLUMNS))
    yield ""
    yield "estimate and used: what ComfyUI sets aside beside weights, and what was taken. loaded: "
    yield "of the weights, on the card at the end. left: bytes torch holds after unloading, more "
    yield "than before."


FACTS = ("job", "case", "kind", "model", "dtype", "frames", "card", "arguments", "way", "ComfyUI",
         "device", "dynamic VRAM")  # fmt: skip


def others(rows: list[Row]) -> Iterator[str]:
    found = [r for r in rows if r["kind"] != "speed" and "error" not in r]
    if not found:
        return
    yield from _head(["job", "way", "found"])
    for r in found:
        facts = (f"{name}: {_short(value)}" for name, value in r.items() if name not in FACTS)
        yield row(r["job"], r["way"], "; ".join(facts))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    return str(value)


def failures(rows: list[Row]) -> Iterator[str]:
    found = [r for r in rows if "error" in r]
    if not found:
        return
    yield from _head(["job", "way", "error"])
    for r in found:
        words = " ".join(r["error"].split()).replace("|", "/")
        yield row(r["job"], r["way"], words if len(words) < 300 else f"{words[:300]} ...")


def _head(names: list[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


TABLES = {
    "What runs where": what_runs_where,
    "Beside dense attention": speed_ups,
    "Time and memory": times,
    "Everything else that was measured": others,
    "What failed": failures,
}


def main() -> None:
    path = Path(sys.argv[1])
    result = json.loads(path.read_text(encoding="utf-8"))
    write(path.with_suffix(".md"), tables(result))


if __name__ == "__main__":
    main()
