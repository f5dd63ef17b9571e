"""diffusers' context parallelism, as far as MoGA runs with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers.utils import logging
from torch import nn

from ...parallel import ParallelismError, SequenceShards, check_heads
from ...wan import WIDE_CHANNELS

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def share_sequence(dit: nn.Module, mesh: DeviceMesh, tokens: int | None = None) -> None:
    """Let the processes of a mesh share the tokens of every call, with MoGA and without.

    mesh: with the dimensions "ring", of size 1, and "ulysses". tokens: of every call; None where
    they differ. Raises ParallelismError.
    """
    ranks, heads = mesh["ulysses"].size(), dit.config.num_attention_heads
    if ranks == 1:
        return
    check_heads(heads, ranks)
    uneven = tokens is None or bool(tokens % ranks or heads % ranks)
    try:
        from diffusers import ContextParallelConfig

        config = ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=uneven, mesh=mesh)
    except (ImportError, TypeError):
        raise ParallelismError(
            "processes that share a sequence need a newer diffusers; install 0.42 or later."
        ) from None
    # A timestep for each token, which is split too, is what the 5B model alone has.
    plan = {at: how for at, how in dit._cp_plan.items() if at or _times_tokens(dit)}
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # that it is experimental concerns us, not the user
    try:
        dit.enable_parallelism(config=config, cp_plan=plan)
    finally:
        logging.set_verbosity(loud)


def _times_tokens(dit: nn.Module) -> bool:
    return dit.config.in_channels == WIDE_CHANNELS


def check_parallelism(dit: nn.Module) -> None:
    """Raise ParallelismError for what `enable_parallelism` was given, if MoGA can't run with it."""
    parallel = getattr(dit, "_parallel_config", None)
    if parallel is None:
        return
    config = parallel.context_parallel_config
    if config is None:
        raise ParallelismError(
            "transformer has tensor parallelism, under which no process has all of a token that a "
            "router reads; use ContextParallelConfig(ulysses_degree=...)."
        )
    if config.ring_degree > 1:
        raise ParallelismError(
            f"ring_degree is {config.ring_degree}; a group's tokens lie all over the sequence, so "
            "there is no ring for MoGA: use ContextParallelConfig(ulysses_degree=...)."
        )
    heads, ranks = dit.config.num_attention_heads, config.ulysses_degree
    check_heads(heads, ranks)
    if heads % ranks and not getattr(config, "ulysses_anything", False):
        raise ParallelismError(
            f"ulysses_degree is {ranks}, which does not divide the model's {heads} attention "
            "heads; give one that does, or ulysses_anything=True."
        )


def shards_of(dit: nn.Module, tokens: int) -> SequenceShards | None:
    """The ranks that share a call of so many tokens; None without parallelism.

    Raises ParallelismError where they can't share it.
    """
    parallel = getattr(dit, "_parallel_config", None)
    if parallel is None:
        return None
    check_parallelism(dit)  # it may have been enabled after MoGA
    config = parallel.context_parallel_config
    ranks = config.ulysses_degree
    if tokens % ranks and not getattr(config, "ulysses_anything", False):
        raise ParallelismError(
            f"the video has {tokens} tokens, which {ranks} processes can't share evenly; give "
            "another size or length, or ContextParallelConfig(..., ulysses_anything=True)."
        )
    return SequenceShards.of(tokens, config._ulysses_mesh.get_group())
