"""What `python -m moga.plan` is asked for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import COMBINES, MoGAConfig
from .cards import CARDS, GB, NETWORK, Card, Network
from .errors import PlanError
from .generation import Sampling
from .geometry import Film, film_of
from .models import LORA_RANK, MODELS
from .training import ADAMW, ADAMW_8BIT, FULL, KEEP, LORA, OFFLOAD, RECOMPUTE, Learning

GENERATION, TRAINING, BOTH = "generation", "training", "both"
MOST_CARDS = 65_536
_FPS = {"1.3B": "16", "5B": "24", "14B": "16"}


@dataclass(frozen=True)
class Request:
    """One plan. sampling, learning: None where it is not asked for.

    sequence, shard: None where the planner chooses.
    """

    film: Film
    gpus: int
    card: Card
    network: Network
    backend: str
    sampling: Sampling | None
    learning: Learning | None
    sequence: int | None = None
    shard: int | None = None


@dataclass(frozen=True)
class Options:
    """The command line. request: None where the tables are asked for, which have their own."""

    request: Request | None
    card: Card
    network: Network
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Read a command line. Exits as argparse does on a bad one; raises MogaError."""
    given = parser().parse_args(arguments)
    _check_belonging(given)
    card = _named("card", given.card, CARDS)
    network = _network(given, card)
    request = None if given.table else _request(given, card, network)
    return Options(request, card, network, given.json)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    top = argparse.ArgumentParser(
        prog="python -m moga.plan",
        description="How many cards a film or a training takes, and how long: memory, operations, "
        "bytes between cards and seconds, from measured rates. Needs no card.",
    )
    film = top.add_argument_group("film").add_argument
    film("--model", default="14B", metavar="SIZE", help=f"{', '.join(MODELS)} (default: 14B)")
    film("--seconds", type=float, default=30, help="of the film or of a clip (default: 30)")
    film("--fps", help="frames a second (default: 16, for the 5B model 24)")
    film("--size", default="832x480", metavar="WxH", help="pixels (default: %(default)s)")
    film("--shots", type=int, default=1, help="of equal length (default: %(default)s)")
    film("--groups", type=int, help="of MoGA (default: 5)")
    film("--windows", metavar="RxC", help="of MoGA (default: 2x2)")
    film("--combine", choices=COMBINES, help="of MoGA (default: union)")
    film("--moga", type=Path, metavar="FILE", help="a MoGAConfig as JSON, instead of those three")
    film("--attention", choices=("moga", "dense"), default="moga", help="(default: %(default)s)")
    film("--uneven", type=float, default=1.0, metavar="TIMES",
         help="groups times the sum of their squared shares; 1 is even (default: 1)")  # fmt: skip

    cards = top.add_argument_group("cards").add_argument
    cards("--gpus", type=int, default=1, metavar="N", help="(default: %(default)s)")
    cards("--card", default="h100", metavar="NAME", help=f"{', '.join(CARDS)} (default: h100)")
    cards("--backend", help="flash3, or sdpa for PyTorch alone (default: the card's best)")
    cards("--sequence", type=int, metavar="P", help="ranks that share a film's tokens "
          "(default: what is fastest)")  # fmt: skip
    cards("--host-cards", type=int, default=8, metavar="N", help="of a host (default: 8)")
    cards("--link", type=float, metavar="GB/S", help="between cards of a host, each way "
          "(default: the card's)")  # fmt: skip
    cards("--network", type=float, default=NETWORK / GB, metavar="GB/S",
          help="between hosts, a card and way (default: %(default)g)")  # fmt: skip
    cards("--latency", type=float, default=30, metavar="US",
          help="microseconds of any collective (default: %(default)g)")  # fmt: skip

    what = top.add_argument_group("what").add_argument
    what("--what", choices=(BOTH, GENERATION, TRAINING), default=BOTH, help="(default: both)")
    what("--steps", type=int, default=30, help="of sampling (default: %(default)s)")
    what("--cfg", type=float, default=5.0, help="guidance; 1 is none (default: %(default)g)")
    what("--train", choices=(FULL, LORA), default=FULL, help="all weights, or a LoRA and routers "
         "(default: full)")  # fmt: skip
    what("--rank", type=int, default=LORA_RANK, help="of the LoRA (default: %(default)s)")
    what("--checkpointing", choices=(RECOMPUTE, KEEP, OFFLOAD), default=RECOMPUTE,
         help="none keeps all activations, offload keeps block inputs in host memory "
         "(default: full)")  # fmt: skip
    what("--host-weights", action="store_true", help="split weights and all that is kept of "
         "them wait in the host's memory, with AdamW (--fsdp_offload_params true)")  # fmt: skip
    what("--optimizer", choices=(ADAMW, ADAMW_8BIT), default=ADAMW, help="(default: %(default)s)")
    what("--ema", action="store_true", help="keep an average of the weights")
    what("--clips", type=int, help="of a training step (default: as many as there is room for "
         "side by side)")  # fmt: skip
    what("--shard", type=int, metavar="N", help="cards that weights are split over; 1: whole on "
         "each (default: what is fastest)")  # fmt: skip

    out = top.add_argument_group("output").add_argument
    out("--json", action="store_true", help="all numbers, in seconds and bytes")
    out("--table", choices=("markdown",), help="from 1 to 1,024 cards, for the docs, instead")
    return top


def _request(given: Any, card: Card, network: Network) -> Request:
    model = _named("model", given.model, MODELS)
    if given.backend not in (None, *card.backends):
        raise PlanError(
            f"--backend is {given.backend!r}; for {card.name} give {' or '.join(card.backends)}."
        )
    if given.attention == "dense" and given.backend not in (None, "sdpa"):
        raise PlanError(
            f"--backend is {given.backend}, and --attention dense, which is the host's own, of "
            "PyTorch; leave --backend out."
        )
    for name in ("gpus", "steps", "rank", "clips", "sequence", "shard"):
        value = getattr(given, name)
        if value is not None and not 1 <= value <= MOST_CARDS:
            raise PlanError(f"--{name} is {value:,}; give 1 to {MOST_CARDS:,}.")
    if given.sequence and given.sequence > model.heads:
        raise PlanError(
            f"--sequence is {given.sequence}, and {model.name} has {model.heads} heads, of which "
            f"every rank needs one; give {model.heads} or fewer."
        )
    for name in ("sequence", "shard"):
        if (getattr(given, name) or 0) > given.gpus:
            raise PlanError(
                f"--{name} is {getattr(given, name)}, more than the {given.gpus} of --gpus; "
                "give fewer, or more cards."
            )
    fps = given.fps if given.fps is not None else _FPS[model.name]
    film = film_of(
        model, _config(given), given.seconds, fps, _size(given.size), given.shots, given.uneven
    )
    if (given.sequence or 0) > film.layout.tokens:
        raise PlanError(
            f"--sequence is {given.sequence}, more than the {film.layout.tokens} tokens of the "
            "film; give fewer."
        )
    _check_weights(given)
    sampling = learning = None
    if given.what != TRAINING:
        if not 0 <= given.cfg < float("inf"):
            raise PlanError(f"--cfg is {given.cfg}; give a number of 0 or more.")
        sampling = Sampling(given.steps, given.cfg != 1)
    if given.what != GENERATION:
        learning = Learning(
            *(given.train, given.checkpointing, given.optimizer, given.ema, given.clips),
            given.rank,
            given.host_weights,
        )
    backend = given.backend or card.backend
    return Request(
        *(film, given.gpus, card, network, backend, sampling, learning), given.sequence, given.shard
    )


def _check_weights(given: Any) -> None:
    """Raise PlanError where they can't lie as they are asked to."""
    if given.optimizer == ADAMW_8BIT and (given.host_weights or (given.shard or 1) > 1):
        raise PlanError(
            f"--optimizer is {ADAMW_8BIT}, which needs whole weights on each card; give {ADAMW}, "
            f"or leave {'--host-weights' if given.host_weights else '--shard'} out."
        )
    for name in ("gpus", "shard"):
        if given.host_weights and getattr(given, name) == 1:
            raise PlanError(
                f"--host-weights is of weights that are split over cards, and --{name} is 1; "
                "give more, or leave --host-weights out."
            )


_OF_TRAINING = ("train", "rank", "checkpointing", "host_weights", "optimizer", "ema", "clips",
                "shard")  # fmt: skip
_OF_SAMPLING = ("steps", "cfg")
_OF_TABLES = ("table", "card", "link", "network", "latency", "host_cards")


def _check_belonging(given: Any) -> None:
    """Raise PlanError for an option that would change nothing."""
    unused = []
    if given.table:
        unused = [name for name in vars(given) if name not in _OF_TABLES]
        why = "the tables have films, models and cards of their own"
    elif given.what != BOTH:
        unused = _OF_TRAINING if given.what == GENERATION else _OF_SAMPLING
        why = f"--what is {given.what}"
    elif given.train == FULL:
        unused, why = ["rank"], "--train is full"
    plain = parser()
    for name in unused:
        if getattr(given, name) != plain.get_default(name):
            raise PlanError(f"--{name.replace('_', '-')} changes nothing, as {why}; leave it out.")


def _named(option: str, name: str, known: dict[str, Any]) -> Any:
    for key, value in known.items():
        if key.lower() == name.lower():
            return value
    raise PlanError(f"--{option} is {name!r}; choose one of {', '.join(known)}.")


def _network(given: Any, card: Card) -> Network:
    link = card.link if given.link is None else given.link * GB
    return Network(link, given.network * GB, given.latency * 1e-6, given.host_cards)


def _size(text: str) -> tuple[int, int]:
    return _pair("size", text, "width and height, such as 832x480")


def _pair(option: str, text: str, what: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})\s*[xX×]\s*(\d{1,5})", text.strip(), re.ASCII)
    if match is None:
        raise PlanError(f"--{option} is {text!r}; give {what}.")
    return int(match[1]), int(match[2])


def _config(given: Any) -> MoGAConfig | None:
    own = {name: getattr(given, name) for name in ("groups", "windows", "combine")}
    own = {name: value for name, value in own.items() if value is not None}
    named = [f"--{name}" for name in (*own, *(["moga"] if given.moga else []))]
    if given.attention == "dense":
        if named:
            raise PlanError(f"{named[0]} is of MoGA; leave it out, or --attention dense.")
        return None
    if given.moga is None:
        if "windows" in own:
            own["windows"] = _pair("windows", own["windows"], "rows and columns, such as 2x2")
        return MoGAConfig(**own)
    if own:
        raise PlanError(f"--moga says what {named[0]} says; leave one of them out.")
    try:
        return MoGAConfig.from_json(given.moga.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise PlanError(f"--moga is {given.moga}, which is not text; give JSON.") from None
