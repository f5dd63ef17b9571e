"""The results of forward.py as tables (Markdown).

    python benchmarks/forward_report.py benchmarks/results/forward.json

Writes forward.md beside the JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from attention_report import head, row


def tables(result: dict) -> str:
    """Whole forwards and where their time goes, then training steps."""
    machine = result["machine"]
    lines = [f"# Wan's blocks, dense and with MoGA, on {machine['device']}", ""]
    lines += [f"{what}: {value}  " for what, value in machine.items() if what != "device"]
    lines += ["", result.get("note", ""), "", "## Forward", ""]
    lines += head("model tokens blocks attention M ms x-stock at-most peak-GiB")
    for r in result["forward"]:
        cells = [r["model"], r["tokens"], r["layers"], r["way"], r["groups"] or "-"]
        lines.append(row(*cells, r["ms"], r["times_stock"], r["most_possible"], r.get("peak_GiB")))
    lines += ["", "at-most: what the arithmetic allows over dense attention.", ""]
    splits = [r for r in result["forward"] if r.get("split_ms")]
    if splits:
        parts = list(splits[0]["split_ms"])
        lines += ["## Where the time goes, ms", ""]
        lines += head("model tokens attention M " + " ".join(p.replace(" ", "-") for p in parts))
        for r in splits:
            cells = [r["model"], r["tokens"], r["way"], r["groups"] or "-"]
            lines.append(row(*cells, *(r["split_ms"][part] for part in parts)))
    lines += ["", "## Forward and backward, blocks recomputed", ""]
    lines += head("model tokens blocks attention ms peak-GiB")
    for r in result["training"]:
        cells = [r["model"], r["tokens"], r["layers"], r["way"]]
        lines.append(row(*cells, r["ms"], r.get("peak_GiB")))
    if trainer := result.get("trainer"):
        lines += ["", "## The trainer", "", trainer["what"] + ".", ""]
        lines += head("seconds tokens attention first-step-s peak-GB")
        columns = ("seconds_of_clip", "tokens", "way", "first_step_s", "peak_GB")
        lines += [row(*(r[c] for c in columns)) for r in trainer["rows"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    source = Path(sys.argv[1])
    result = json.loads(source.read_text())
    source.with_suffix(".md").write_text(tables(result))


if __name__ == "__main__":
    main()
