"""What was measured, planned: every figure of benchmarks/results, or why it is none of the plan's.

Rates are taken from some of the figures (benchmarks/rates.py says which); all others are predicted.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from moga.config import MoGAConfig
from moga.flops import density, expected_speedup
from moga.layout import VideoLayout
from moga.plan import blocks, generation, training, wire
from moga.plan import rates as known
from moga.plan.backward import backward_steps
from moga.plan.buffers import layer_tensors
from moga.plan.cards import CARDS, Network
from moga.plan.estimate import Arrangement
from moga.plan.generation import Sampling
from moga.plan.geometry import Film
from moga.plan.layer import VALUE, forward_steps, kernels_of
from moga.plan.models import MODELS
from moga.plan.parts import dense_parts, parts_of
from moga.plan.passes import Job
from moga.plan.training import FULL, LORA, Learning
from moga.wan import latent_frames

ROOT = Path(__file__).parents[2]
NEAR_ENOUGH = 0.15
GB, GIB, MS = 1e9, 2**30, 1e-3
# Forwards of parallel.json ran on cards at their power limit (its "clocks"); rates are of cool
# ones. By its dense forward of the 1.3B on one card.
SUSTAINED = 0.955

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
         "seconds", "memory", "processes", "sequence"}  # fmt: skip
FOLLOWS = {"efficiency", "times_dense_same_kernel", "times_stock", "times", "hours"}
HIDDEN = {"gather_ms"}  # of groups and gates: behind the projections
START = {"first_call_ms", "first_step_s"}  # Triton's compilations and cuDNN's plans, once a process
PLANNED = {"ms", "split_ms", "peak_tensors", "density", "most_possible", "dense_ms", "moga_ms",
           "peak_GiB", "step_s", "peak_GB", "peak_gb", "gib", "attention_ms",
           "exchange_ms"}  # fmt: skip


class Figure(NamedTuple):
    """planned and measured in the same unit. what: of which, for reading and for EXCEPT."""

    what: str
    planned: float
    measured: float

    @property
    def off(self):
        return abs(self.planned / self.measured - 1)


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
    "parallel.json forward 1.3B 187200 M=20": "the plan is short: in a model with random routers, "
    "20 groups take a fifth longer; in union.json's forward, self-attention an eighth",
    "decode-cuda.json moga 81": "three seconds, one of them start-up; the rate is a minute's",
    "decode-cuda.json serial": "without the thread that writes, which only benchmarks leave out",
}


# What rates are taken from, or stands beside it in the same table.
TAKEN = ("attention.json dense", "attention.json split", "attention.json backward",
         "union.json split", "forward.json whole forward", "union.json whole forward",
         "forward.json trainer moga 62400 on 1", "forward.json trainer dense 62400 on 1",
         "training.json train_wan_1.3b_80gb.toml 10s: memory",
         "training.json train_wan_1.3b_lora_24gb.toml 10s: memory",
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


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def layout_of(tokens, shots=1):
    frames, height, width = {
        32_760: (21, 30, 52),
        62_400: (40, 30, 52),
        75_600: (21, 45, 80),
        187_200: (120, 30, 52),
        563_160: (361, 30, 52),
    }[tokens]
    return VideoLayout(
        frames, height, width, tuple(round(i * frames / shots) for i in range(shots))
    )


def config_of(groups, combine):
    return MoGAConfig(groups, (4, 4) if groups == 20 else (2, 2), combine=combine)


def uneven(groups, spread):
    shares = {
        "even": [1] * groups,
        "skewed": [1 / n for n in range(1, groups + 1)],
        "half empty": [1] * (groups // 2),
    }[spread]
    return groups * sum(share**2 for share in shares) / sum(shares) ** 2


def used_by(row, parts):
    """The kernels that a row says ran; under one softmax `triton` masks what is far."""
    used = dict(row["branches"])
    if parts.union and used["routed"] == "triton":
        used["routed"] = "far"
    return used


def layers(name, rates):
    """attention.json and union.json: one layer, dense and MoGA, its steps, and backwards."""
    found = results(name)
    for row in found["dense"]:
        steps = forward_steps(
            dense_parts(layout_of(row["tokens"])), {"dense": row["backend"]}, row["heads"], rates
        )
        what = f"{name} dense {row['backend']} {row['tokens']} heads {row['heads']}"
        yield Figure(what, sum(steps.values()), row["ms"] * MS)
    for row in found["moga"]:
        combine = row.get("combine", "mean")
        config, layout = config_of(row["groups"], combine), layout_of(row["tokens"], row["shots"])
        spread = uneven(row["groups"], row["spread"])
        parts = parts_of(layout, config, spread)
        used = used_by(row, parts)
        what = (
            f"{name} layer {combine} {row['backend']} {row['tokens']} heads {row['heads']} "
            f"M={row['groups']} shots {row['shots']} {row['spread']}"
        )
        steps = forward_steps(parts, used, row["heads"], rates)
        yield Figure(what, sum(steps.values()), row["ms"] * MS)
        tensors = layer_tensors(parts, used, row["heads"])
        yield Figure(f"{what}: tensors", tensors, row["peak_tensors"])
        shares = [layout.tokens * spread / row["groups"]] * row["groups"]
        if row["spread"] == "even":
            yield Figure(f"{what}: density", density(layout, config, shares), row["density"])
    for row in found["split"]:
        combine = row.get("combine", "mean")
        parts = parts_of(layout_of(row["tokens"]), config_of(row["groups"], combine))
        used = kernels_of(parts, "flash3" if row["backend"] == "auto" else "sdpa")
        steps = forward_steps(parts, used, row["heads"], rates)
        assert set(steps) == set(row["ms"])
        for step, ms in row["ms"].items():
            what = f"{combine} {row['backend']} {row['tokens']} M={row['groups']}"
            yield Figure(f"{name} split {step} {what}", steps[step], ms * MS)
    for row in found.get("backward") or found["extras"]["backward"]:
        yield from backwards(name, row, rates)
    if "flex_attention" in found.get("extras", {}):
        yield Figure(f"{name} flex", 0.0, found["extras"]["flex_attention"]["ms"] * MS)


def backwards(name, row, rates):
    combine, backend = row.get("combine", "mean"), row["backend"]
    layout = layout_of(row["tokens"])
    moga = parts_of(layout, config_of(row["groups"], combine))
    for parts, key in ((dense_parts(layout), "dense_ms"), (moga, "moga_ms")):
        used = dict.fromkeys((part.name for part in parts.all), backend)
        if parts.union:
            used["routed"] = "far"
        seconds = sum(forward_steps(parts, used, row["heads"], rates).values())
        kernel = "torch" if parts.union else backend
        seconds += sum(backward_steps(parts, kernel, row["heads"], rates).values())
        kind = combine if parts.groups else "dense"
        what = f"{name} backward {kind} {backend} {row['tokens']} M={row['groups']}"
        yield Figure(what, seconds, row[key] * MS)


def job_of(model, layout, config, card, backend, arrangement=None, groups=1.0):
    film = Film(MODELS[model], layout, config, 832, 480, 16, groups)
    network = Network(CARDS[card].link)
    return Job(film, CARDS[card], network, arrangement or Arrangement(), backend)


def whole_forwards(name, card, combine):
    """forward.json and union.json: blocks alone, one after the other."""
    for row in results(name)["forward"]:
        model = MODELS[row["model"]]
        config = config_of(row["groups"], combine) if row["groups"] else None
        layout = layout_of(row["tokens"])
        backend = {"auto": "flash3", "auto, no extra package": "sdpa"}.get(
            row["way"], row["way"][6:]
        )
        job = job_of(row["model"], layout, config, card, backend)
        used = kernels_of(job.parts, backend)
        steps = blocks.forward(job.work, used, job.card.rates)
        what = f"{row['model']} {row['way']} {row['tokens']} M={row['groups']}"
        what += f" portions {row['feed_forward_portions']}"
        seconds = row["layers"] * sum(steps.values())
        yield Figure(f"{name} forward {what}", seconds, row["ms"] * MS)
        for step, ms in (row["split_ms"] or {}).items():
            planned = row["layers"] * steps[step]
            yield Figure(f"{name} whole forward {step}: {what}", planned, ms * MS)
        moments = generation.moments(job)
        if row["feed_forward_portions"] > 1:  # then it is never the worst moment
            moments = [m for m in moments if not any("feed-forward" in key for key in m)]
        held = row["layers"] * model.block_weights(row["groups"] or 0) * VALUE
        held += max(sum(moment.values()) for moment in moments)
        yield Figure(f"{name} forward {what}: memory", held, row["peak_GiB"] * GIB)
        if config is not None:
            most = expected_speedup(layout, config, model.shape)
            yield Figure(f"{name} forward {what}: at most", most, row["most_possible"])


def training_blocks():
    """forward.json: six blocks of the benchmark, recomputed; bfloat16 weights, no optimizer."""
    for row in results("forward.json")["training"]:
        config = config_of(5, "mean") if row["way"] == "moga auto" else None
        job = job_of(row["model"], layout_of(row["tokens"]), config, "h100", "flash3")
        kernel = "torch" if config else "sdpa"
        used = dict.fromkeys((part.name for part in job.parts.all), kernel)
        rates, work = job.card.rates, job.work
        seconds = 2 * sum(blocks.forward(work, used, rates).values())
        seconds += sum(blocks.backward(work, kernel, rates, frozen=False).values())
        what = f"forward.json training {row['way']} {row['tokens']}"
        yield Figure(what, row["layers"] * seconds, row["ms"] * MS)
        held = training.memory(job, Learning())
        tensors = held["a block's tensors"] + held["buffers of the attention layer"]
        # Its norms are bfloat16 and there is no autocast: no float32 copies of the trainer's.
        tensors -= training.AUTOCAST_TENSORS * work.unit
        weights = row["layers"] * job.film.model.block_weights(job.parts.groups) * VALUE
        held = tensors + weights + row["layers"] * work.unit
        yield Figure(f"{what}: memory", held, row["peak_GiB"] * GIB)


def trainer():
    """forward.json: moga.train itself, on one card and split over two."""
    for row in results("forward.json")["trainer"]["rows"]:
        config = None if row["way"] == "dense" else config_of(5, "mean")
        how = Arrangement(copies=row["gpus"], shard=row["gpus"])
        job = job_of("1.3B", layout_of(row["tokens"]), config, "h100", "flash3", how)
        learning = Learning(ema="EMA" in row["way"])
        found = training.estimate(job, learning)
        what = f"forward.json trainer {row['way']} {row['tokens']} on {row['gpus']}"
        yield Figure(what, found.step, row["step_s"])
        yield Figure(f"{what}: memory", found.bytes_held, row["peak_GB"] * GB)


def recipes():
    """training.json: recipes, whose random routers on random weights are uneven (groups.json)."""
    spreads = spread_of("training")
    for row in results("training.json")["runs"]:
        frames = latent_frames(16 * row["seconds"])  # the most that fit, as the trainer takes them
        layout = VideoLayout(frames, 30, 52, tuple(i * frames // 6 for i in range(6)))
        model = row["size"].replace("b", "B")
        how = Arrangement(sequence=row.get("sequence", 1), shard=row.get("processes", 1))
        spread = spreads[model, 5]
        job = job_of(model, layout, MoGAConfig(), "h200", "flash3", how, groups=spread)
        weights = LORA if "lora" in row["recipe"] else FULL
        learning = Learning(weights, row.get("checkpointing", "full"), rank=64)
        found = training.estimate(job, learning)
        what = f"training.json {row['recipe']} {row['stage']}"
        yield Figure(what, found.step, row["step_s"])
        yield Figure(f"{what}: memory", found.bytes_held, row["peak_gb"] * GB)


def spread_of(measured):
    """groups.json: how uneven the groups of random routers are, by model and number of groups."""
    return {
        (row["size"].replace("b", "B"), row["groups"]): row["uneven"]
        for row in results("groups.json")["rows"]
        if row["of"] == measured
    }


def parallel():
    """parallel.json: a layer and whole forwards on 1, 2 and 4 cards, and what a layer waits for."""
    spreads = spread_of("parallel")
    for row in results("parallel.json")["runs"]:
        case, ranks = row["case"], row["case"]["ranks"]
        config = config_of(case["groups"], "union") if case["groups"] else None
        even = case["what"] == "layer" or config is None
        layout, how = layout_of(case["tokens"], 1 if even else 6), Arrangement(sequence=ranks)
        spread = 1.0 if even else spreads[case["model"], case["groups"]]
        job = job_of(case["model"], layout, config, "h200", "flash3", how, spread)
        what = f"parallel.json {case['what']} {case['model']} {case['tokens']} M={case['groups']}"
        what += f" on {ranks}"
        if case["what"] == "forward":
            found = generation.estimate(job, Sampling(1, guided=False))
            yield Figure(what, found.step / SUSTAINED, row["ms"] * MS)
            yield Figure(f"{what}: memory", found.bytes_held, row["gib"] * GIB)
        elif case["what"] == "training":
            rates, work = job.card.rates, job.work
            used = dict.fromkeys((part.name for part in job.parts.all), "torch")
            used["routed"] = "far"
            seconds = 2 * sum(blocks.forward(work, used, rates).values())
            seconds += sum(blocks.backward(work, "torch", rates, frozen=False).values())
            yield Figure(what, job.layers * seconds, row["ms"] * MS)
        else:
            kernels = kernels_of(job.parts, "flash3")
            seconds = sum(
                forward_steps(job.parts, kernels, job.work.heads, job.card.rates).values()
            )
            if ranks == 1:
                yield Figure(what, seconds, row["ms"] * MS)
                held = (3 + layer_tensors(job.parts, kernels, job.work.heads)) * job.work.unit
                yield Figure(f"{what}: memory", held, row["gib"] * GIB)
                continue
            sent = 4 * job.work.unit
            exchange = wire.exchange_seconds(sent, ranks, ranks, job.network)
            yield Figure(what, seconds + exchange, row["ms"] * MS)
            yield Figure(f"{what}: attention", seconds, row["attention_ms"] * MS)
            what = what.replace("layer", "exchange")
            yield Figure(what, exchange, row["exchange_ms"] * MS)


def decoding():
    for row in results("decode-cuda.json")["results"]:
        seconds = row["frames"] * 832 * 480 / known.DECODED
        yield Figure(f"decode-cuda.json {row['way']} {row['frames']}", seconds, row["seconds"])


def figures():
    yield from layers("attention.json", known.H100)
    yield from layers("union.json", known.H200)
    yield from whole_forwards("forward.json", "h100", "mean")
    yield from whole_forwards("union.json", "h200", "union")
    yield from training_blocks()
    yield from trainer()
    yield from recipes()
    yield from parallel()
    yield from decoding()


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
