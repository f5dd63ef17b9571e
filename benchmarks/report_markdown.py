"""Markdown of results: tables, and files in which what somebody wrote below them is kept."""

from __future__ import annotations

from pathlib import Path

BY_HAND = "<!-- by hand from here -->\n"


def write(path: Path, text: str) -> None:
    """Write generated Markdown over the old, and keep what follows BY_HAND there."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    _, found, below = old.partition(BY_HAND)
    path.write_text(text + ("\n" + BY_HAND + below if found else ""), encoding="utf-8")


def head(columns: str) -> list[str]:
    names = columns.split()
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def row(*cells: object) -> str:
    shown = (f"{c:.2f}" if isinstance(c, float) else str("" if c is None else c) for c in cells)
    return "| " + " | ".join(shown) + " |"
