"""A plan for reading, and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..files import readable
from ..flops import density
from .cards import GB, NVLINK, Card, Network
from .estimate import Arrangement, Estimate
from .generation import decoding_seconds
from .options import Request
from .planned import Answer
from .rates import FILES
from .training import FULL, HOST_COPY, HOST_LINK, Learning, host_memory

_BACKENDS = {"flash3": "FlashAttention 3", "sdpa": "PyTorch alone"}


def text(request: Request, sampled: Answer | None, learned: Answer | None) -> str:
    """The plan in words and tables."""
    operations = (sampled or learned).estimate.operations
    title = f"operations of a forward pass: {_flops(sum(operations.values()))}"
    lines = [*_film(request), *_table(title, operations, _flops), ""]
    if sampled is not None:
        lines += [*_sampled(request, sampled), ""]
    if learned is not None:
        lines += [*_learned(request, learned), ""]
    notes = [f"  {note}" for note in sources(request.card, request.network, request.learning)]
    return "\n".join([*lines, "What this rests on", *notes])


def duration(seconds: float) -> str:
    """Seconds for reading: 42 ms, 3.2 s, 5 min 20 s, 2 h 5 min."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def _film(request: Request) -> list[str]:
    film = request.film
    grid = film.layout
    how = "dense attention"
    if film.config is not None:
        rows, columns = film.config.windows
        how = (
            f"MoGA of {film.config.groups} groups and {rows}x{columns} windows "
            f"({film.config.combine}), {density(grid, film.config):.1%} of dense attention"
        )
    return [
        f"Wan {film.model.name}: {film.frames:,} frames of {film.width}x{film.height} at "
        f"{float(film.fps):g} fps, {grid.tokens:,} tokens",
        how,
        f"{request.gpus:,} x {request.card.name}, {_BACKENDS[request.backend]}",
    ]


def _sampled(request: Request, answer: Answer) -> list[str]:
    sampling, found = request.sampling, answer.estimate
    guided = "guidance, two forwards a step" if sampling.guided else "no guidance"
    lines = [f"GENERATING, {sampling.steps} steps, {guided}", f"  {_arranged(answer)}"]
    if not answer.fits:
        return [*lines, *_unfit(request, answer), *_memory(answer)]
    beside = found.arrangement.copies
    decoding = decoding_seconds(answer.job)

    def film(one: Estimate) -> float:
        return sampling.steps * one.step

    lines += [
        f"  a step         {duration(found.step)}",
        f"  a film         {duration(film(found))}, and {duration(decoding)} of decoding on one "
        f"card{f'; {beside:,} films at once' if beside > 1 else ''}",
        _others(answer, film),
        _used(answer, (2 if sampling.guided else 1) * beside),
    ]
    return [*lines, *_split(answer), *_memory(answer), *_wire(answer)]


def _learned(request: Request, answer: Answer) -> list[str]:
    learning, found = request.learning, answer.estimate
    what = "all weights" if learning.weights == FULL else f"a LoRA of rank {learning.rank}, routers"
    average = ", average of weights" if learning.ema else ""
    where = ", weights in the host's memory" if learning.host_weights else ""
    lines = [
        f"TRAINING {what}{average}{where}, checkpointing {learning.checkpointing}",
        f"  {_arranged(answer)}",
    ]
    if not answer.fits:
        return [*lines, *_unfit(request, answer), *_memory(answer)]
    count = learning.clips or found.arrangement.copies
    clips = f"{count:,} clip{'s' * (count > 1)}"
    if found.forwards > 1:
        clips += f", {found.forwards} after one another on each card"

    def clip(one: Estimate) -> float:
        return one.step / (learning.clips or one.arrangement.copies)

    lines += [
        f"  a step         {duration(found.step)}, of {clips}; 1,000 steps "
        f"{duration(1000 * found.step)}",
        f"  a clip         {duration(clip(found))} on average",
        _others(answer, clip),
    ]
    if learning.weights == FULL:
        lines.append(_used(answer, 3 * count))
    if away := host_memory(answer.job, learning):
        lines.append(
            f"  of each host   {readable(away)} of its memory, besides what reads the model"
        )
    return [*lines, *_split(answer), *_memory(answer), *_wire(answer)]


def _others(answer: Answer, cost: Callable[[Estimate], float]) -> str:
    """The same on other numbers of cards."""
    said = []
    for cards, other in answer.others:
        took = "does not fit" if other is None else duration(cost(other))
        said.append(f"{took} on {cards:,}")
    return f"  other counts   {', '.join(said)} cards"


def _used(answer: Answer, forwards: int) -> str:
    """Operations of so many forwards a step, a backward counting as two, beside what cards can."""
    found = answer.estimate
    done = forwards * sum(found.operations.values())
    could = found.step * answer.cards * found.card.peak
    return f"  arithmetic     {done / could:.0%} of the cards' peak by the data sheet"


def _arranged(answer: Answer) -> str:
    return _how(answer.estimate.arrangement, answer.cards, answer.job.film.model.heads)


def _how(how: Arrangement, cards: int, heads: int) -> str:
    words = [
        "one card does all of it"
        if how.cards == 1
        else f"{how.sequence} rank{'s' * (how.sequence > 1)} to a sequence"
    ]
    if how.halves == 2:
        words.append("2 halves of guidance")
    if how.copies > 1:
        words.append(f"{how.copies:,} side by side")
    if how.shard > 1:
        words.append(f"weights split over {how.shard:,}")
    if idle := cards - how.cards:
        words.append(f"{idle:,} card{'s' * (idle > 1)} idle")
    if heads % how.sequence:
        words.append(f"{heads} heads do not divide: some ranks have {-(-heads // how.sequence)}")
    return ", ".join(words)


def _unfit(request: Request, answer: Answer) -> list[str]:
    found, card = answer.estimate, request.card
    line = (
        f"  DOES NOT FIT: {readable(found.bytes_held)} a card, and a {card.name} has room for "
        f"{readable(card.usable)}."
    )
    if answer.fitting is not None:
        cards, other = answer.fitting
        how = _how(other.arrangement, cards, request.film.model.heads)
        return [line, f"  It fits on {cards:,} of them: {how}."]
    return [f"{line} Nor does it on up to 1,024 of them; take a card with more memory."]


def _table(title: str, values: dict[str, float], say) -> list[str]:
    total = sum(values.values())
    lines = [f"  {title}"]
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        if value > 0:
            part = value / total
            shown = f"{part:.0%}" if part >= 0.005 else "<1%"
            lines.append(f"    {name:38} {say(value):>10} {shown:>5}")
    return lines


def _split(answer: Answer) -> list[str]:
    return _table("where a step's time goes", answer.estimate.seconds, duration)


def _memory(answer: Answer) -> list[str]:
    found = answer.estimate
    title = (
        f"memory of a card: {readable(found.bytes_held)} of {readable(found.card.usable)} at the "
        "worst moment"
    )
    return _table(title, found.memory, readable)


def _wire(answer: Answer) -> list[str]:
    found = answer.estimate.wire
    if not found:
        return ["  over the wire: nothing"]
    return _table(f"over the wire: {readable(sum(found.values()))} to each card a step", found,
                  readable)  # fmt: skip


def _flops(count: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e9:.3g} GFLOP"


def sources(card: Card, network: Network, learning: Learning | None = None) -> list[str]:
    """What the figures rest on."""
    links = f"{network.link / GB:g} GB/s between cards of a host"
    if network.link == card.link == NVLINK:
        links = f"measured: {links}, {FILES['links']}"
    else:
        links = f"assumed: {links}"
    hosts = []
    if learning is not None and learning.host_weights:
        hosts = [
            f"measured: {HOST_COPY / GB:g} GB/s of a host's memory for each card, {FILES['hosts']}",
            f"assumed: {HOST_LINK / GB:g} GB/s between a card and that memory",
        ]
    return [
        *card.sources,
        links,
        *hosts,
        "computed: operations, bytes and what is held; how near the whole comes to what was "
        "measured: docs/planner.md",
        f"assumed: {network.network / GB:g} GB/s between hosts of {network.host_cards} cards, "
        f"{network.latency * 1e6:g} us a collective",
        "assumed: q and k travel while k and v are made, weights and gradients while blocks run",
    ]


def as_data(request: Request, sampled: Answer | None, learned: Answer | None) -> dict[str, Any]:
    """The same as plain numbers, in seconds, bytes and operations."""
    film = request.film
    data: dict[str, Any] = {
        "model": film.model.name,
        "frames": film.frames,
        "tokens": film.layout.tokens,
        "density": 1.0 if film.config is None else density(film.layout, film.config),
        "card": request.card.name,
        "cards": request.gpus,
        "sources": sources(request.card, request.network, request.learning),
    }
    if sampled is not None:
        data["generation"] = _answer_data(sampled) | {
            "film": request.sampling.steps * sampled.estimate.step,
            "decoding": decoding_seconds(sampled.job),
        }
    if learned is not None:
        data["training"] = _answer_data(learned) | {
            "clips": request.learning.clips or learned.estimate.arrangement.copies,
            "host_memory": host_memory(learned.job, request.learning),
        }
    return data


def _answer_data(answer: Answer) -> dict[str, Any]:
    found = answer.estimate
    return {
        "fits": answer.fits,
        "fits_on": answer.cards if answer.fits else answer.fitting and answer.fitting[0],
        "arrangement": asdict(found.arrangement) | {"idle": answer.idle},
        "step": found.step,
        "seconds": found.seconds,
        "memory": found.memory,
        "room": found.card.usable,
        "wire": found.wire,
        "operations_of_a_forward": found.operations,
    }
