"""The results of attention.py as tables (Markdown) and as a plot of time against length (PNG).

    python benchmarks/attention_report.py benchmarks/results/attention.json

Writes attention.md and attention.png beside the JSON; the plot needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

STOCK = "sdpa"
NAMES = {"auto": "MoGA, FlashAttention 3", "auto, no extra package": "MoGA, no extra package"}


def tables(result: dict) -> str:
    """Dense times, then MoGA's, then where the time of a layer goes."""
    machine = result["machine"]
    lines = [f"# One attention layer on {machine['device']}", ""]
    lines += [f"{what}: {value}  " for what, value in machine.items() if what != "device"]
    lines += ["", result.get("note", ""), "", "## Dense, ms", "", *head("tokens heads backend ms")]
    lines += [row(r["tokens"], r["heads"], r["backend"], r["ms"]) for r in result["dense"]]
    columns = "tokens heads M shots groups backend ms first-call-ms efficiency of x-stock peak"
    lines += ["", "## MoGA", "", *head(columns)]
    for r in result["moga"]:
        first = [r["tokens"], r["heads"], r["groups"], r["shots"], r["spread"], r["backend"]]
        times = [r["ms"], r["first_call_ms"], r["efficiency"], r["efficiency_against"]]
        lines.append(row(*first, *times, r["times_stock"], r["peak_tensors"]))
    lines += ["", "## Where a layer's time goes, ms", ""]
    for r in result["split"]:
        parts = ", ".join(f"{what} {ms:.2f}" for what, ms in r["ms"].items())
        lines.append(f"- {r['tokens']} tokens, M={r['groups']}, {r['backend']}: {parts}")
    if rows := result.get("extras", {}).get("backward"):
        lines += ["", "## Forward and backward, ms", ""]
        lines += head("tokens heads M backend dense MoGA times")
        columns = ("tokens", "heads", "groups", "backend", "dense_ms", "moga_ms", "times")
        lines += [row(*(r[c] for c in columns)) for r in rows]
    return "\n".join(lines) + "\n"


def head(columns: str) -> list[str]:
    names = columns.split()
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def row(*cells: object) -> str:
    shown = (f"{c:.2f}" if isinstance(c, float) else str("" if c is None else c) for c in cells)
    return "| " + " | ".join(shown) + " |"


def plot(result: dict, path: Path, heads: int = 12) -> None:
    """Time of a layer against its tokens, dense beside MoGA, one shot and even groups."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for backend, name in ((STOCK, "dense, stock (SDPA)"), ("flash3", "dense, FlashAttention 3")):
        rows = [r for r in result["dense"] if (r["heads"], r["backend"]) == (heads, backend)]
        _line(axes, rows, name, "-")
    for backend, name in NAMES.items():
        for groups in (5, 20):
            key = (heads, backend, groups, 1, "even")
            fields = ("heads", "backend", "groups", "shots", "spread")
            rows = [r for r in result["moga"] if tuple(r[f] for f in fields) == key]
            _line(axes, rows, f"{name}, M={groups}", "--")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms of one attention layer")
    axes.set_title(f"{result['machine']['device']}, bfloat16, {heads} heads of 128")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _line(axes, rows: list[dict], name: str, style: str) -> None:
    points = sorted((r["tokens"], r["ms"]) for r in rows)
    if points:
        axes.plot(*zip(*points, strict=True), style, marker="o", label=name)


def main() -> None:
    source = Path(sys.argv[1])
    result = json.loads(source.read_text())
    text = tables(result)
    print(text)
    source.with_suffix(".md").write_text(text)
    plot(result, source.with_suffix(".png"))


if __name__ == "__main__":
    main()
