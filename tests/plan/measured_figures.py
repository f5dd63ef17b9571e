"""What was measured beside what the planner says of it: every figure of benchmarks/results.

`test_measured.py` says how near they have to be, and what is none of the plan's.
"""

import json
from pathlib import Path
from typing import NamedTuple

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
GB, GIB, MS = 1e9, 2**30, 1e-3
# Forwards of parallel.json ran on cards at their power limit; rates are of cool ones. By its dense
# forward of the 1.3B on one card; with MoGA, which draws more, times the clocks that were read (its
# "clocks") while the same two cards ran the 14B's forward with 5 groups and dense.
SUSTAINED = 0.955
SUSTAINED_MOGA = SUSTAINED * (1470 + 1515) / (1620 + 1650)


class Figure(NamedTuple):
    """planned and measured in the same unit. what: of which, for reading and for EXCEPT."""

    what: str
    planned: float
    measured: float

    @property
    def off(self):
        return abs(self.planned / self.measured - 1)


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
        away = row.get("host_weights", False)
        learning = Learning(weights, row.get("checkpointing", "full"), rank=64, host_weights=away)
        found = training.estimate(job, learning)
        what = f"training.json {row['recipe']} {row['stage']}{' in the host' if away else ''}"
        yield Figure(what, found.step, row["step_s"])
        yield Figure(f"{what}: memory", found.bytes_held, row["peak_gb"] * GB)
        if away:
            held = training.host_memory(job, learning)
            yield Figure(f"{what}: the host's memory", held, row["host_gib"] * GIB)


def spread_of(measured):
    """groups.json: how uneven the groups of random routers are, by model and number of groups."""
    return {
        (row["size"].replace("b", "B"), row["groups"]): row["uneven"]
        for row in results("groups.json")["rows"]
        if row["of"] == measured
    }


def parallel():
    """parallel.json: a layer and whole forwards on 1, 2 and 4 cards, and what a layer waits for.

    Not planned is the memory of a layer on several, most of it the benchmark's own copies, and of
    its training, which has no optimizer.
    """
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
            sustained = SUSTAINED_MOGA if case["groups"] else SUSTAINED
            yield Figure(what, found.step / sustained, row["ms"] * MS)
            yield Figure(what.replace(" ", " memory of a ", 1), found.bytes_held, row["gib"] * GIB)
        elif case["what"] == "training":
            rates, work = job.card.rates, job.work
            kernel = "torch" if case["groups"] else "sdpa"
            used = dict.fromkeys((part.name for part in job.parts.all), kernel)
            if case["groups"]:
                used["routed"] = "far"
            seconds = 2 * sum(blocks.forward(work, used, rates).values())
            seconds += sum(blocks.backward(work, kernel, rates, frozen=False).values())
            yield Figure(what, job.layers * seconds, row["ms"] * MS)
        else:
            kernels = kernels_of(job.parts, "flash3")
            seconds = sum(
                forward_steps(job.parts, kernels, job.work.heads, job.card.rates).values()
            )
            if ranks == 1:
                yield Figure(what, seconds, row["ms"] * MS)
                held = (3 + layer_tensors(job.parts, kernels, job.work.heads)) * job.work.unit
                yield Figure(what.replace(" ", " memory of a ", 1), held, row["gib"] * GIB)
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
