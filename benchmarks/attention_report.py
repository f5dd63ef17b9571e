"""The results of attention.py as tables (Markdown) and as a plot of time against length (PNG).

    python benchmarks/attention_report.py benchmarks/results/attention.json [parts.json ...]

Parts of several runs are put together into the first file. Writes attention.md and attention.png
beside it, and keeps what somebody wrote below the tables; the plot needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from attention import growth
from report_markdown import head, row, write

STOCK = "sdpa"
_PLOTTED = 12  # heads
NAMES = {"auto": "MoGA, FlashAttention 3", "auto, no extra package": "MoGA, no extra package"}


def tables(result: dict) -> str:
    """Dense times, then MoGA's, then where the time of a layer goes."""
    machine = result["machine"]
    lines = [f"# One attention layer on {machine['device']}", ""]
    lines += [f"{what}: {value}  " for what, value in machine.items() if what != "device"]
    lines += ["", "## Dense, ms", "", *head("tokens heads backend ms")]
    lines += [row(r["tokens"], r["heads"], r["backend"], r["ms"]) for r in result["dense"]]
    columns = "tokens heads M shots groups backend ms first-call-ms efficiency of x-stock peak"
    lines += ["", "## MoGA", "", *head(columns)]
    for r in result["moga"]:
        first = [r["tokens"], r["heads"], r["groups"], r["shots"], r["spread"], r["backend"]]
        times = [r["ms"], r["first_call_ms"], r["efficiency"], r["efficiency_against"]]
        lines.append(row(*first, *times, r["times_stock"], r["peak_tensors"]))
    if result["split"]:
        lines += ["", "## Where a layer's time goes, ms", ""]
    for r in result["split"]:
        parts = ", ".join(f"{what} {ms:.2f}" for what, ms in r["ms"].items())
        lines.append(f"- {r['tokens']} tokens, M={r['groups']}, {r['backend']}: {parts}")
    extras = result.get("extras", {})
    if rows := extras.get("backward"):
        lines += ["", "## Forward and backward, ms", ""]
        lines += head("tokens heads M backend dense MoGA times")
        columns = ("tokens", "heads", "groups", "backend", "dense_ms", "moga_ms", "times")
        lines += [row(*(r[c] for c in columns)) for r in rows]
    if peer := extras.get("flex_attention"):
        lines += ["", "## A peer: block-sparse flex_attention, compiled", ""]
        lines += [
            "The density of M=20 on random blocks of 128 x 128; nothing is routed or permuted.",
            "",
        ]
        lines += head("tokens heads density ms")
        lines.append(row(*(peer[c] for c in ("tokens", "heads", "density", "ms"))))
    lines += ["", "## How time grows: ms goes as tokens to the power of", ""]
    lines += head("heads M backend from to power")
    columns = ("heads", "groups", "backend", "from", "to", "power")
    lines += [row(*(r[c] for c in columns)) for r in growth(result["moga"])]
    return "\n".join(lines) + "\n"


def merged(parts: list[dict]) -> dict:
    """One result of several: rows one after the other, one machine and every command."""
    machines = [{**part["machine"]} for part in parts]
    commands = [
        command for m in machines for command in m.pop("commands", [m.pop("command", None)])
    ]
    if any(machine != machines[0] for machine in machines):
        sys.exit(f"these were not measured on one machine: {machines}")
    whole: dict = {"machine": {**machines[0], "commands": commands}}
    for name in dict.fromkeys(key for part in parts for key in part if key != "machine"):
        values = [part[name] for part in parts if part.get(name)]
        if all(isinstance(value, list) for value in values):
            whole[name] = [row for value in values for row in value]
        else:
            whole[name] = {key: value for one in values for key, value in one.items()}
    return whole


def plot(result: dict, path: Path, heads: int) -> None:
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


def read() -> tuple[Path, dict]:
    """The file that the command line names first, and its contents, put together from the parts."""
    path, *parts = map(Path, sys.argv[1:])
    if parts:
        whole = merged([json.loads(part.read_text(encoding="utf-8")) for part in parts])
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return path, json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    path, result = read()
    write(path.with_suffix(".md"), tables(result))
    if any(r["heads"] == _PLOTTED for r in result["dense"]):
        plot(result, path.with_suffix(".png"), _PLOTTED)


if __name__ == "__main__":
    main()
