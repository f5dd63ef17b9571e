"""What was measured, planned: every figure of benchmarks/results, or why it is none of the plan's.

Rates are taken from some of the figures (benchmarks/rates.py says which); all others are predicted.
"""

import dataclasses
import importlib.util
import sys

import pytest
from measured_figures import ROOT, figures, results

from moga.plan import rates as known
from moga.plan import training
from moga.plan.models import MODELS

NEAR_ENOUGH = 0.15
# Whole files that say nothing of what the planner plans.
NO_PLAN = {
    "attention-cpu.json": "of a CPU, for which nothing is planned",
    "decode-cpu.json": "of a CPU, for which nothing is planned",
    "decode-cpu-narrow.json": "of a CPU, for which nothing is planned",
    "data.json": "of the data pipeline, on a CPU",
    "ablation.json": "losses, not seconds",
    "ablation-union.json": "losses, not seconds",
    "comfyui-cuda.json": "steps of ComfyUI's model, not of diffusers'; and what lies around them",
    "groups.json": "what `--uneven` stands for; given to training.json and parallel.json",
}
# Numbers beside the figures: what was asked for, and what follows from other figures.
GIVEN = {"tokens", "heads", "groups", "shots", "layers", "feed_forward_portions", "gpus", "steps",
         "seconds", "memory", "processes", "sequence", "host_weights"}  # fmt: skip
FOLLOWS = {"efficiency", "times_dense_same_kernel", "times_stock", "times", "hours"}
HIDDEN = {"gather_ms"}  # of groups and gates: behind the projections
START = {"first_call_ms", "first_step_s"}  # Triton's compilations and cuDNN's plans, once a process
PLANNED = {"ms", "split_ms", "peak_tensors", "density", "most_possible", "dense_ms", "moga_ms",
           "peak_GiB", "step_s", "peak_GB", "peak_gb", "gib", "host_gib", "attention_ms",
           "exchange_ms"}  # fmt: skip


# Figures that measure something else than what is planned: what begins with this, and why.
EXCEPT = {
    "attention.json split routing order": "0.11 to 0.38 ms for the same work: the host's time to "
    "start a few small kernels, a hundredth of a layer at the lengths that are planned",
    "union.json split routing order": "as in attention.json",
    "attention.json backward mean sdpa": "PyTorch's dense attention, group by group, plans each "
    "new length on the host; `auto` trains by `torch`, which is faster, and the plan does",
    "union.json backward mean sdpa": "as in attention.json",
    "attention.json dense triton": "a kernel that `auto` gives short segments only; over the whole "
    "length it is slower, as keys no longer come from the cache",
    "union.json dense triton": "as in attention.json",
    "attention.json layer mean sdpa 75600 heads 12 M=20": "by name: short windows of several sizes "
    "are batched in pieces; `auto` reads them in place, and the plan does",
    "attention.json layer mean sdpa 32760 heads 12 M=20": "as at 75,600",
    "attention.json layer mean auto 32760 heads 40 M=20": "slower than PyTorch alone in the same "
    "run and than 40/12 of 12 heads, which is not explained",
    "attention.json split windows mean auto 32760 M=20": "windows of 682 tokens, the "
    "shortest of FlashAttention 3 here: 0.1 ms of a layer of 2",
    "forward.json whole forward self-attention: 1.3B auto, no extra package 187200 M=20": "routers "
    "are random there, so that groups are somewhat uneven; the forward itself is within 6 %",
    "union.json whole forward cross-attention: 1.3B auto, no extra package": "126 ms, beside "
    "FlashAttention 3 in the same run 143 for the same work: the card's clock",
    "attention.json flex": "FlexAttention, at the density of MoGA, which nothing here uses",
    "parallel.json layer 1.3B 187200 M=20 on 2": "the plan is short: attention of 6 heads and 20 "
    "groups, 19.5 ms, takes more than half of 12 heads' 30.8",
    "parallel.json layer 1.3B 187200 M=20 on 4": "the plan is short: 13.4 ms for 8.5 of attention "
    "and 2.4 of exchange; in whole forwards it is not lost",
    "parallel.json exchange 1.3B 187200": "the plan is short: 0.1 to 0.2 ms more for each of four",
    "parallel.json exchange 1.3B 563160 M=5 on 2": "two cards reach 195 GB/s here",
    "parallel.json exchange 1.3B 563160 M=20 on 2": "two cards reach 195 GB/s here",
    "parallel.json layer 1.3B 563160 M=20 on 4: attention": "one call; with the exchange it took "
    "more than the whole layer, which is planned well",
    "parallel.json layer 14B 563160 M=20 on 1": "the plan is short by 15.2 %",
    "training.json train_wan_14b_4x80gb.toml 30s in the host: memory": "measured with autocast's "
    "casts of all weights, 28.6 GB at the end of the forward, which are dropped since",
    "decode-cuda.json moga 81": "three seconds, one of them start-up; the rate is a minute's",
    "decode-cuda.json serial": "without the thread that writes, which only benchmarks leave out",
}


# What rates are taken from, or stands beside it in the same table.
TAKEN = ("attention.json dense", "attention.json split", "attention.json backward",
         "union.json split", "forward.json whole forward", "union.json whole forward",
         "forward.json trainer moga 62400 on 1", "forward.json trainer dense 62400 on 1",
         "training.json train_wan_1.3b_80gb.toml 10s: memory",
         "training.json train_wan_1.3b_lora_24gb.toml 10s: memory",
         "training.json train_wan_14b_4x80gb.toml 30s in the host",
         "forward.json forward 14B", "decode-cuda.json moga 1441", "parallel.json exchange",
         "parallel.json forward 1.3B 187200 M=0 on 1")  # fmt: skip


@pytest.fixture(scope="module")
def taken():
    """benchmarks/rates.py."""
    path = ROOT / "benchmarks" / "rates.py"
    spec = importlib.util.spec_from_file_location("benchmarks_rates", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


ALL = list(figures())


def excepted(figure):
    return next((start for start in EXCEPT if figure.what.startswith(start)), None)


def test_every_measured_figure_is_planned_to_within_15_percent():
    off = [
        f"{figure.what}: planned {figure.planned:.4g}, measured {figure.measured:.4g}"
        for figure in ALL
        if figure.off > NEAR_ENOUGH and excepted(figure) is None
    ]
    assert off == []


def test_what_no_rate_is_taken_from_is_predicted_to_3_percent_on_average():
    """Whole layers, whole forwards, training steps and memory; densities aside, which are exact."""
    free = [f for f in ALL if excepted(f) is None and not f.what.startswith(TAKEN)]
    free = [f for f in free if not f.what.endswith((": density", ": at most"))]
    assert len(free) > 300
    assert sum(figure.off for figure in free) / len(free) < 0.03


def test_an_exception_is_one():
    """Each is off, or it would need no reason."""
    for start in EXCEPT:
        of = [figure for figure in ALL if figure.what.startswith(start)]
        assert any(figure.off > NEAR_ENOUGH for figure in of), start


def test_no_file_of_results_is_passed_over():
    """Whoever adds one has it planned here, or says in NO_PLAN why not."""
    walked = {figure.what.partition(" ")[0] for figure in ALL}
    files = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert files - walked - set(NO_PLAN) == set()


@pytest.mark.parametrize(
    "name",
    ["attention.json", "union.json", "forward.json", "training.json", "parallel.json"],
)
def test_no_number_of_a_row_is_passed_over(name):
    found = results(name)
    tables = [found, found.get("extras", {}), found.get("trainer", {})]
    rows = [row for table in tables for value in table.values() if isinstance(value, list)
            for row in value if isinstance(row, dict)]  # fmt: skip
    numbers = {key for row in rows for key, value in row.items() if isinstance(value, (int, float))}
    assert numbers - {True, False} <= PLANNED | GIVEN | FOLLOWS | START | HIDDEN


def test_the_rates_are_what_the_figures_give(taken):
    """To the three digits that they are written with."""
    for name, found in (("H100", taken.h100()), ("H200", taken.h200(taken.h100()))):
        mine = dataclasses.asdict(getattr(known, name))
        for field, value in flat(dataclasses.asdict(found)):
            assert dict(flat(mine))[field] == pytest.approx(value, rel=0.006), (name, field)


def test_adamw_in_the_host_s_memory_is_as_fast_as_it_was():
    """What a step takes more than with weights on the cards, by the ten numbers of four bytes."""
    rows = [row for row in results("training.json")["runs"] if "host_weights" in row]
    there, here = sorted(rows, key=lambda row: not row["host_weights"])
    moved = 10 * 4 * MODELS["14B"].weights(5) / there["processes"]
    found = moved / (there["step_s"] - here["step_s"])
    assert found == pytest.approx(training.HOST_COPY, rel=0.02)


def flat(values, before=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def main():
    """The figures that are furthest off, for whoever changes a rate."""
    for figure in sorted(ALL, key=lambda figure: -figure.off):
        mark = "*" if excepted(figure) else " "
        print(f"{figure.planned / figure.measured:6.3f} {mark} {figure.what}")
    fair = [f for f in ALL if excepted(f) is None]
    free = [f for f in fair if not f.what.startswith(TAKEN)]
    for what, some in (("all but exceptions", fair), ("no rate is taken from", free)):
        mean, most = sum(f.off for f in some) / len(some), max(f.off for f in some)
        print(f"{what}: {len(some)} figures, off by {mean:.1%} on average, {most:.1%} at most")


if __name__ == "__main__":
    main()
