"""The one table of what can run variable-length attention.

Queries, keys and values come packed: all tokens of segment 0, then of segment 1, and so on; queries
of a segment attend to the keys of the same segment. The node's drop-down, the choice that `auto`
makes, the sentence for a missing backend and the README's table are all made from BACKENDS.

Letters: Q packed queries, P packed keys, R segments, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MogaError
from . import sdpa, varlen
from .probe import HALF, HOPPER, TRITON_WIDTHS, missing
from .segments import Segments

AUTO = "auto"


class BackendError(MogaError, RuntimeError):
    """An attention backend that was asked for and cannot run; the message says what is missing."""


Run = Callable[[Tensor, Tensor, Tensor, Segments, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Backend:
    """One way to run packed attention.

    run: (q (Q, N, D), k (P, N, D), v (P, N, D), segments, want_lse)
        -> out (Q, N, D), log-sum-exp (Q, N) float32 or None.
    modules, package, minimum: what has to be importable (any one of them), and what to install.
    capability: least and greatest CUDA compute capability (major), None for any device.
    trains, has_lse: whether it has a backward pass, and gives the log-sum-exp.
    auto: whether `auto` may take it as the backend of a whole layer.
    indexed: the same of tokens that need no packing, with q_index and k_index after v, see
        `triton_attention.triton_indexed`; None where the kernel cannot.
    ranged: the same where the keys of a segment are any range: (q, k, v, cu_q (R + 1,), first (R,),
        count (R,)) -> out, log-sum-exp (N, Q); None where the kernel cannot.
    """

    name: str
    title: str
    run: Run
    modules: tuple[str, ...] = ("torch",)
    package: str = "torch"
    minimum: str = ""
    capability: tuple[int, int] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    max_width: int | None = None
    trains: bool = True
    has_lse: bool = True
    auto: bool = True
    indexed: Callable[..., tuple[Tensor, Tensor | None]] | None = None
    ranged: Callable[..., tuple[Tensor, Tensor]] | None = None
    refuses: Callable[[Tensor], str | None] = lambda q: None

    def missing(self) -> str | None:
        """What has to be installed before this backend can run, or None."""
        return missing(self.modules, self.package, self.minimum)

    def device(self) -> str:
        """Where it runs, in words."""
        if self.capability is None:
            return "any device"
        least, most = self.capability
        name = {8: "Ampere", HOPPER: "Hopper"}[least]
        return f"NVIDIA {name}" if least == most else f"NVIDIA {name} or newer"

    def unfit(self, q: Tensor, *, training: bool = False, lse: bool = False) -> str | None:
        """Why this backend cannot take tensors like q, or None."""
        if self.capability is not None:
            least, most = self.capability
            if q.device.type != "cuda" or torch.version.hip:
                where = "an AMD GPU" if torch.version.hip else q.device.type
                return f"needs an NVIDIA GPU, the tensors are on {where}"
            if not least <= torch.cuda.get_device_capability(q.device)[0] <= most:
                return f"does not run on {torch.cuda.get_device_name(q.device)}"
        if self.dtypes is not None and q.dtype not in self.dtypes:
            return f"needs float16 or bfloat16, the tensors are {str(q.dtype)[6:]}"
        width = q.shape[-1]
        if self.max_width is not None and (width > self.max_width or width % 8):
            return f"needs a head width of at most {self.max_width} in steps of 8, not {width}"
        if training and not self.trains:
            return "has no backward pass"
        if lse and not self.has_lse:
            return "gives no log-sum-exp, which combine='union' needs"
        return self.refuses(q)


def backend_table() -> str:
    """The backends as a Markdown table, which the README holds."""
    lines = ["| Name | What it is | Needs |", "| --- | --- | --- |"]
    for backend in BACKENDS.values():
        package = f"`{backend.package}`" + (f" {backend.minimum}" if backend.minimum else "")
        cells = (f"`{backend.name}`", backend.title, f"{package}; {backend.device()}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def require(name: str) -> Backend:
    """The backend of that name, installed. Raises BackendError otherwise."""
    if name not in BACKENDS:
        raise BackendError(f"backend is {name!r}; choose one of {', '.join(backend_names())}.")
    backend = BACKENDS[name]
    missing = backend.missing()
    if missing:
        raise BackendError(f"backend {name!r} cannot run: {missing}; choose 'auto' or 'sdpa'.")
    return backend


def backend_names() -> list[str]:
    """What a user may choose from: auto, then every row of the table."""
    return [AUTO, *BACKENDS]


def _triton_packed(*given: Any) -> tuple[Tensor, Tensor | None]:
    from . import triton_attention

    return triton_attention.triton_packed(*given)


def _triton_indexed(*given: Any) -> tuple[Tensor, Tensor | None]:
    from . import triton_attention

    return triton_attention.triton_indexed(*given)


def _triton_refuses(q: Tensor) -> str | None:
    width = q.shape[-1]
    return None if width in TRITON_WIDTHS else f"needs a power of two, not width {width}"


_FLASH = {"dtypes": HALF, "max_width": 256}

# The order is the order in which `auto` tries them; on Hopper `choose` puts `sdpa` further up.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "flash3",
            "FlashAttention 3: the wheel, or built from source",
            varlen.flash3,
            modules=varlen.FLASH3,
            package="fa3-fwd",
            capability=(HOPPER, HOPPER),
            trains=False,
            ranged=varlen.flash3_ranged,
            refuses=varlen.flash3_refuses,
            **_FLASH,
        ),
        Backend(
            "flash2",
            "FlashAttention 2",
            varlen.flash2,
            modules=("flash_attn.flash_attn_interface",),
            package="flash-attn",
            minimum="2.6",  # before it the log-sum-exp has another shape
            capability=(8, 99),
            **_FLASH,
        ),
        Backend(
            "torch",
            "PyTorch's variable-length attention",
            varlen.torch_varlen,
            modules=("torch.nn.attention.varlen",),
            minimum="2.10",
            capability=(8, 99),
            **_FLASH,
        ),
        Backend(
            "sdpa",
            "PyTorch's dense attention, batched; cuDNN on Hopper",
            sdpa.batched,
        ),
        Backend(
            "triton",
            "reads q, k and v in place: least memory; `auto` uses it beside `sdpa` on Hopper",
            _triton_packed,
            modules=("triton",),
            package="triton",
            capability=(8, 99),
            dtypes=HALF,
            max_width=128,
            trains=False,
            auto=False,
            indexed=_triton_indexed,
            refuses=_triton_refuses,
        ),
        Backend(
            "flash4",
            "FlashAttention 4; not measured here, never picked by `auto`",
            varlen.flash4,
            modules=("flash_attn.cute",),
            package="flash-attn-4",
            capability=(HOPPER, 11),
            dtypes=HALF,
            max_width=128,
            trains=False,
            has_lse=False,  # it has one, which nothing here has tried
            auto=False,
        ),
        Backend(
            "sage",
            "SageAttention (8-bit, approximate), never picked by `auto`",
            varlen.sage,
            modules=("sageattention",),
            package="sageattention",
            capability=(8, 99),
            dtypes=HALF,
            max_width=128,
            trains=False,
            has_lse=False,
            auto=False,
        ),
    )
}
