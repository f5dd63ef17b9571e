"""The results of forward.py as tables (Markdown).

    python benchmarks/forward_report.py benchmarks/results/forward.json [parts.json ...]

Parts of several runs are put together into the first file. Writes forward.md beside it, and keeps
what somebody wrote below the tables.
"""

from __future__ import annotations

from attention_report import read
from report_markdown import head, row, write


def tables(result: dict) -> str:
    """Whole forwards and where their time goes, then training steps."""
    machine = result["machine"]
    lines = [f"# Wan's blocks, dense and with MoGA, on {machine['device']}", ""]
    lines += [f"{what}: {value}  " for what, value in machine.items() if what != "device"]
    lines += ["", "## Forward", ""]
    lines += head("model tokens blocks attention M ffn-portions ms x-stock at-most peak-GiB")
    for r in result["forward"]:
        cells = [r["model"], r["tokens"], r["layers"], r["way"], r["groups"] or "-"]
        cells.append(r["feed_forward_portions"])
        lines.append(row(*cells, r["ms"], r["times_stock"], r["most_possible"], r.get("peak_GiB")))
    lines += ["", "at-most: what the arithmetic allows over dense attention.", ""]
    whole = [r for r in result["forward"] if r["feed_forward_portions"] == 1]
    splits = [r for r in whole if r.get("split_ms")]
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
        lines += head("GPUs tokens attention first-step-s step-s peak-GB")
        columns = ("gpus", "tokens", "way", "first_step_s", "step_s", "peak_GB")
        lines += [row(*(r[c] for c in columns)) for r in trainer["rows"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    path, result = read()
    write(path.with_suffix(".md"), tables(result))


if __name__ == "__main__":
    main()
