"""Bytes between cards, and seconds for them.

The all-to-all within a host was measured; gathers are taken to be as fast, and hosts are assumed.

Letters: P ranks of a sequence.
"""

from __future__ import annotations

from math import gcd

from .cards import Network

GROUP_BYTES = 5  # of a token's group, uint8, and of its gate, float32


def neighbours(ranks: int, cards: int, network: Network) -> int:
    """Of the ranks of a sequence, how many at least share a host; itself among them."""
    if cards <= network.host_cards:
        return ranks
    return gcd(ranks, network.host_cards)


def share(ranks: int) -> float:
    """Of what a card holds, the part that goes to others or comes from them."""
    return (ranks - 1) / ranks


def exchange_seconds(size: float, ranks: int, near: int, network: Network) -> float:
    """An all-to-all of `size` bytes on each card. near: ranks on one host."""
    if ranks == 1:
        return 0.0
    inside = size * (near - 1) / ranks / network.link
    across = size * (ranks - near) / ranks / network.network
    return max(inside, across) + network.latency


def gather_seconds(size: float, ranks: int, network: Network) -> float:
    """An all-gather to `size` bytes on each card, or a reduce-scatter of them.

    Between hosts each byte comes in once, over the network of all cards of the host.
    """
    if ranks == 1:
        return 0.0
    inside = size * share(ranks) / network.link
    hosts = -(-ranks // network.host_cards)
    across = size * share(hosts) / (network.network * min(ranks, network.host_cards))
    return max(inside, across) + network.latency


def reduce_seconds(size: float, ranks: int, network: Network) -> float:
    """An all-reduce of `size` bytes: scattered, then gathered."""
    return 2 * gather_seconds(size, ranks, network)
