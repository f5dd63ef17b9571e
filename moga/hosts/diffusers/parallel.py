"""diffusers' context parallelism, as far as MoGA runs with it."""

from __future__ import annotations

from torch import nn

from ...parallel import ParallelismError, SequenceShards


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
    if ranks > heads:
        raise ParallelismError(
            f"ulysses_degree is {ranks}, but the model has {heads} attention heads, and each "
            f"process needs one; give at most {heads}."
        )
    if heads % ranks and not config.ulysses_anything:
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
    if tokens % ranks and not config.ulysses_anything:
        raise ParallelismError(
            f"the video has {tokens} tokens, which {ranks} processes can't share evenly; give "
            "another size or length, or ContextParallelConfig(..., ulysses_anything=True)."
        )
    return SequenceShards.of(tokens, config._ulysses_mesh.get_group())
