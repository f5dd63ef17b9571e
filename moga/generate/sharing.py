"""Who does what where several processes make one film."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Options, UsageError


@dataclass(frozen=True)
class Sharing:
    """processes: all of them. halves: whether one half guides the other, each with its own text."""

    processes: int
    halves: bool

    @classmethod
    def of(cls, options: Options, processes: int) -> Sharing:
        """Raises UsageError for what one process has to do alone."""
        if processes > 1:
            _check(options)
        halves = options.cfg_halves and options.cfg > 1 and processes % 2 == 0
        return cls(processes, halves)

    @property
    def ranks(self) -> int:
        """How many share the tokens of a forward."""
        return self.processes // 2 if self.halves else self.processes

    def text(self) -> str:
        """For the plan."""
        half = f"{self.processes}: one half for the text, one for the negative"
        if not self.halves:
            return f"{self.processes} share the tokens"
        return half if self.ranks == 1 else f"{half}; in each, {self.ranks} share the tokens"


def _check(options: Options) -> None:
    if options.latents is not None:
        raise UsageError("--latents is decoded by one process; start it without torchrun.")
    if options.offload not in ("none", "model"):
        raise UsageError(
            f"--offload is {options.offload}, which moves a model in pieces that processes can't "
            "share; give --offload model, or leave it out."
        )
    if options.device not in ("auto", "cuda", "cpu"):
        raise UsageError(
            f"--device is {options.device}, but each process has a GPU of its own; leave it out, "
            "and choose the GPUs with CUDA_VISIBLE_DEVICES."
        )
