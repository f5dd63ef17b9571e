"""How fast a card is: rates that were measured, each with the figures it was taken from.

`benchmarks/rates.py` takes them from benchmarks/results, and a test holds these to what it finds.
Everything else that was measured is predicted from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FILES = {
    "H100": "benchmarks/results/{attention,forward}.json (H100, commit d70905c)",
    "H200": "benchmarks/results/union.json (H200, commit e5c7f13)",
    "links": "benchmarks/results/parallel.json (H200, commit b89c026)",
    "hosts": "benchmarks/results/training.json (H200, commit ac3c726)",
}
DECODED = 41.73 * 832 * 480  # pixels a second: benchmarks/results/decode-cuda.json, H100


@dataclass(frozen=True)
class Kernel:
    """An attention kernel: peak / (1 + half / length) operations a second.

    length: keys of a query. At a length of `half` it runs at half its peak.
    block: no side of a segment costs less than so many tokens.
    """

    peak: float
    half: float
    block: int = 1

    def seconds(self, pairs: float, length: float, heads: float, flops_a_pair: float) -> float:
        return flops_a_pair * heads * pairs * (1 + self.half / length) / self.peak


@dataclass(frozen=True)
class Rates:
    """Of one card. Operations and bytes a second; seconds.

    forward, backward: kernels by name. gemm: of projections and feed-forward.
    copy: of permutations and merges. elementwise: of norms, RoPE, modulation, activations.
    order: to sort tokens by group, once a layer and forward, however many there are.
    norms, rope, trainer: passes over a card's tokens in a block (reads and writes of two bytes a
        number) of norms and modulation, of qk-norm and RoPE, and of what the trainer does besides
        (autocast, float32 norms of diffusers), the last for a whole step.
    mean_backward: the same over q, of what the mean's backward pass costs besides attention.
    """

    forward: dict[str, Kernel]
    backward: dict[str, Kernel]
    gemm: float
    copy: float
    elementwise: float
    order: float
    norms: float
    rope: float
    mean_backward: float
    trainer: float

    def times(self, compute: float, bandwidth: float) -> Rates:
        """Of a card with so many times the arithmetic and the memory bandwidth."""
        faster = {
            way: {name: replace(k, peak=k.peak * compute) for name, k in getattr(self, way).items()}
            for way in ("forward", "backward")
        }
        return replace(
            self,
            **faster,
            gemm=self.gemm * compute,
            copy=self.copy * bandwidth,
            elementwise=self.elementwise * bandwidth,
        )


H100 = Rates(
    forward={
        "flash3": Kernel(708e12, 449),
        "sdpa": Kernel(579e12, 378),
        "torch": Kernel(353e12, 189),
        "triton": Kernel(408e12, 385),
        "far": Kernel(403e12, 1450),
    },
    backward={"torch": Kernel(314e12, 189, 128), "sdpa": Kernel(517e12, 378, 128)},
    gemm=713e12,
    copy=2.85e12,
    elementwise=2.85e12,
    order=0.179e-3,
    norms=28.0,
    rope=27.4,
    mean_backward=200,
    trainer=641,
)
H200 = replace(H100, copy=3.74e12, elementwise=3.29e12)
