"""One sequence over several processes: which tokens each of them has, and how they are exchanged.

DeepSpeed-Ulysses (arXiv 2309.14509) on torch.distributed's own collectives. Every process has some
of the tokens with all heads; for attention it gets all tokens with some of the heads.
"""

from .shards import ParallelismError, SequenceShards, check_heads

__all__ = ["ParallelismError", "SequenceShards", "check_heads"]
