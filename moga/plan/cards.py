"""Cards and what joins them: what was measured, what data sheets say, what is assumed."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import PlanError
from .rates import FILES, H100, H200, Rates

GB = 1e9
RESERVED = 2**30  # bytes of a card that the driver and CUDA take; as in benchmarks/training.py
SPARE = 0.05  # of a card's memory, lost between tensors; assumed
NVLINK = 230 * GB  # of an all-to-all with its copies: four H200s, parallel.json
PCIE = 20 * GB
NETWORK = 40 * GB


@dataclass(frozen=True)
class Card:
    """A card. memory: bytes that CUDA sees. peak: bfloat16 operations a second of the data sheet.

    backend: the attention kernels that it is planned with; backends: those that it can run.
    link: bytes a second to another card of the host, each way: of Hopper as measured, of other
    NVLinks times the ratio of the data sheets. sources: where the rates are from.
    """

    name: str
    memory: float
    peak: float
    rates: Rates
    sources: tuple[str, ...]
    backends: tuple[str, ...]
    link: float = NVLINK

    @property
    def usable(self) -> float:
        return self.memory * (1 - SPARE) - RESERVED

    @property
    def backend(self) -> str:
        return self.backends[0]


_PEAK, _BANDWIDTH = 989e12, 3.35e12  # of an H100, by its data sheet


def _scaled(name: str, memory: float, peak: float, bandwidth: float, link: float) -> Card:
    """A card that was not measured."""
    source = (
        f"assumed: an H100's rates with PyTorch alone, times {peak / _PEAK:.2f} in arithmetic and "
        f"{bandwidth / _BANDWIDTH:.2f} in memory (data sheets)"
    )
    rates = H100.times(peak / _PEAK, bandwidth / _BANDWIDTH)
    return Card(name, memory, peak, rates, (source,), ("sdpa",), link)


_HOPPER = ("flash3", "sdpa")
CARDS = {
    card.name: card
    for card in (
        Card("h100", 85.0 * GB, _PEAK, H100, (f"measured: {FILES['H100']}",), _HOPPER),
        Card("h200", 150.1 * GB, _PEAK, H200,
             (f"measured: {FILES['H200']}", f"measured: arithmetic, {FILES['H100']}"), _HOPPER),
        _scaled("a100", 85.1 * GB, 312e12, 2.04e12, 153 * GB),
        _scaled("b200", 191 * GB, 2250e12, 8e12, 460 * GB),
        _scaled("l40s", 47.6 * GB, 362e12, 0.864e12, PCIE),
        _scaled("4090", 25.3 * GB, 165e12, 1.008e12, PCIE),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What joins cards: bytes a second and card, each way; seconds of a collective at least.

    host_cards: cards of a host, which are joined by `link`; hosts are by `network`.
    """

    link: float
    network: float = NETWORK
    latency: float = 30e-6
    host_cards: int = 8

    def __post_init__(self) -> None:
        for name in ("link", "network"):
            if not getattr(self, name) > 0:
                raise PlanError(f"--{name} is {getattr(self, name) / GB:g}; give GB/s above 0.")
        if not self.latency >= 0:
            raise PlanError(f"--latency is {self.latency * 1e6:g}; give microseconds, 0 or more.")
        if self.host_cards < 1:
            raise PlanError(f"--host-cards is {self.host_cards}; give 1 or more.")
