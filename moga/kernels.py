"""Variable-length attention, and the one table of what can run it.

Queries, keys and values come packed: all tokens of segment 0, then of segment 1, and so on; queries
of a segment attend to the keys of the same segment. The node's drop-down, the choice that `auto`
makes and the sentence for a missing backend are all made from BACKENDS.

Letters: Q, K packed query and key tokens, S segments, N heads, D head width.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

AUTO = "auto"
_HALF = (torch.float16, torch.bfloat16)
_UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_SCORES = 1 << 26  # attention scores that the plain log-sum-exp path holds at once


class BackendError(RuntimeError):
    """An attention backend that was asked for and cannot run; the message says what is missing."""


@dataclass(frozen=True)
class Segments:
    """Where the segments of a packed call begin and end.

    cu_q, cu_k: (S + 1,) int32, cumulative query and key counts, on the device of the tensors.
    max_q, max_k: upper bounds of the counts of any one segment.
    lengths: ((queries, keys), ...) of each segment where the host knows them, else None.
    """

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int
    lengths: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def from_lengths(
        cls, lengths: tuple[tuple[int, int], ...], device: torch.device | str
    ) -> Segments:
        """Segments of known lengths."""
        q, k = ([0, *(pair[side] for pair in lengths)] for side in (0, 1))
        cu_q, cu_k = (torch.tensor(n).cumsum(0).to(device, torch.int32) for n in (q, k))
        return cls(cu_q, cu_k, max(q), max(k), lengths)

    @classmethod
    def from_counts(cls, counts: Tensor, bound: int) -> Segments:
        """Segments whose queries are their keys, from counts (S,) that stay on the device."""
        cu = torch.zeros(counts.numel() + 1, dtype=torch.int32, device=counts.device)
        torch.cumsum(counts, 0, dtype=torch.int32, out=cu[1:])
        return cls(cu, cu, bound, bound)

    def on_host(self) -> tuple[tuple[int, int], ...]:
        """The lengths as Python numbers; one small copy from the device if they are not known."""
        if self.lengths is not None:
            return self.lengths
        q, k = torch.stack([self.cu_q, self.cu_k]).diff(dim=1).tolist()
        return tuple(zip(q, k, strict=True))


Run = Callable[[Tensor, Tensor, Tensor, Segments, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Backend:
    """One way to run packed attention.

    run: (q (Q, N, D), k (K, N, D), v (K, N, D), segments, want_lse)
        -> out (Q, N, D), log-sum-exp (Q, N) float32 or None.
    modules, package, minimum: what has to be importable (any one of them), and what to install.
    capability: least and greatest CUDA compute capability (major), None for any device.
    trains, has_lse: whether it has a backward pass, and gives the log-sum-exp.
    exact: False where the kernel quantises; `auto` never takes such a one.
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
    exact: bool = True
    refuses: Callable[[Tensor], str | None] = lambda q: None

    def missing(self) -> str | None:
        """What has to be installed before this backend can run, or None."""
        return _missing(self.modules, self.package, self.minimum)

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
            return "gives no log-sum-exp, which combine='lse' needs"
        return self.refuses(q)


def attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, backend: Backend, *, lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Packed attention: out (Q, N, D) and, when asked for, its log-sum-exp (Q, N) float32."""
    if lse and needs_grad(q, k, v):
        backend = BACKENDS["sdpa"]  # the others drop the gradient of the log-sum-exp
    return backend.run(q, k, v, segments, lse)


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd will want a backward pass through any of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def select(
    name: str, q: Tensor, *, training: bool = False, lse: bool = False
) -> tuple[Backend, str]:
    """The backend to use for tensors like q, and a clause that says why.

    "auto" takes the first row of BACKENDS that is installed and fits. Any other name is used or
    refused: raises BackendError that says what is missing.
    """
    if name != AUTO:
        backend = require(name)
        reason = backend.unfit(q, training=training, lse=lse)
        if reason:
            raise BackendError(f"backend {name!r} {reason}; choose 'auto' or 'sdpa'.")
        return backend, "chosen by name"
    passed_over = []
    for backend in BACKENDS.values():
        reason = backend.missing() or backend.unfit(q, training=training, lse=lse)
        if reason is None and backend.exact:
            return backend, "; ".join(passed_over) or "the fastest there is"
        passed_over.append(f"{backend.name}: {reason}")
    raise BackendError("no attention backend fits: " + "; ".join(passed_over))


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


@lru_cache(maxsize=32)
def _missing(modules: tuple[str, ...], package: str, minimum: str) -> str | None:
    wanted = f"{package} {minimum} or newer" if minimum else package
    if not any(_importable(module) for module in modules):
        return f"{wanted} is not installed"
    if minimum:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None  # built from source, without metadata: it is there, so let it run
        if _release(version) < _release(minimum):
            return f"{wanted} is needed, {version} is installed"
    return None


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _release(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits or not part[0].isdigit():
            break
        numbers.append(int(digits))
    return tuple(numbers)


# --- sdpa: runs of segments of equal length as one batched dense call ----------------------------


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    dense = _dense_with_lse if lse else _dense
    if q.is_cuda and segments.lengths is None:
        # cuDNN plans each length it has not met for tens of milliseconds; group sizes never repeat.
        dense = sdpa_kernel(_UNPLANNED)(dense)
    outs, lses = [], []
    for count, lq, lk, q_at, k_at in _runs(segments.on_host()):
        part = q[q_at : q_at + count * lq].unflatten(0, (count, lq))
        keys, values = (t[k_at : k_at + count * lk].unflatten(0, (count, lk)) for t in (k, v))
        out, log = dense(*(t.transpose(1, 2) for t in (part, keys, values)))
        outs.append(out.transpose(1, 2).flatten(0, 1))
        if log is not None:
            lses.append(log.transpose(1, 2).flatten(0, 1))
    return _joined(outs, q), (_joined(lses, q[..., 0].float()) if lse else None)


def _runs(lengths: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, int, int, int]]:
    """Neighbours of equal length as (segments, queries each, keys each, first query, first key)."""
    q_at = k_at = start = 0
    while start < len(lengths):
        lq, lk = lengths[start]
        stop = start
        while stop < len(lengths) and lengths[stop] == (lq, lk):
            stop += 1
        if lq:
            yield stop - start, lq, lk, q_at, k_at
        q_at, k_at, start = q_at + (stop - start) * lq, k_at + (stop - start) * lk, stop


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    if not parts:
        return torch.zeros_like(like)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
    """q, k, v (S, N, length, D)."""
    return F.scaled_dot_product_attention(q, k, v), None


def _dense_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention and its log-sum-exp, both differentiable, a slice of queries at a time."""
    scale = 1 / math.sqrt(q.shape[-1])
    precise = torch.promote_types(q.dtype, torch.float32)
    step = max(1, _SCORES // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    outs, lses = [], []
    for part in q.split(step, dim=2):
        scores = (part.to(precise) @ k.to(precise).transpose(-1, -2)) * scale
        log = scores.logsumexp(dim=-1)
        outs.append((scores - log.unsqueeze(-1)).exp().to(v.dtype) @ v)
        lses.append(log)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


# --- kernels that take cumulative lengths as they are --------------------------------------------


def _torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    varlen = importlib.import_module("torch.nn.attention.varlen")
    out, log = varlen.varlen_attn(
        q,
        k,
        v,
        segments.cu_q,
        segments.cu_k,
        segments.max_q,
        segments.max_k,
        return_aux=varlen.AuxRequest(lse=True),
    )
    return out, (_tokens_first(log, q) if lse else None)


def _flash2(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    flash = importlib.import_module("flash_attn")
    out = flash.flash_attn_varlen_func(
        q,
        k,
        v,
        segments.cu_q,
        segments.cu_k,
        segments.max_q,
        segments.max_k,
        return_attn_probs=lse,
    )
    return (out[0], _tokens_first(out[1], q)) if lse else (out, None)


def _flash3(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    flash = importlib.import_module(next(filter(_importable, _FLASH3)))
    out, log = flash.flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=segments.cu_q,
        cu_seqlens_k=segments.cu_k,
        max_seqlen_q=segments.max_q,
        max_seqlen_k=segments.max_k,
        return_attn_probs=True,
    )[:2]
    return out, (_tokens_first(log, q) if lse else None)


_FLASH3 = ("flash_attn_interface", "fa3_fwd_interface")


def _flash3_refuses(q: Tensor) -> str | None:
    if q.dtype == torch.float16 and not _importable(_FLASH3[0]):
        return "has no float16 kernel in the fa3-fwd wheel"
    return None


def _sage(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    sage = importlib.import_module("sageattention")
    cu_q, cu_k, max_q, max_k = segments.cu_q, segments.cu_k, segments.max_q, segments.max_k
    return sage.sageattn_varlen(q, k, v, cu_q, cu_k, max_q, max_k), None


def _tokens_first(lse: Tensor, q: Tensor) -> Tensor:
    """Log-sum-exp as (Q, N): kernels give (N, Q), possibly padded at the end."""
    return lse[:, : q.shape[0]].transpose(0, 1)


# The order is the order in which `auto` tries them.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "flash3",
            "FlashAttention 3",
            _flash3,
            modules=_FLASH3,
            package="fa3-fwd",
            capability=(9, 9),
            dtypes=_HALF,
            max_width=256,
            trains=False,
            refuses=_flash3_refuses,
        ),
        Backend(
            "flash2",
            "FlashAttention 2",
            _flash2,
            modules=("flash_attn",),
            package="flash-attn",
            minimum="2.5",
            capability=(8, 99),
            dtypes=_HALF,
            max_width=256,
        ),
        Backend(
            "torch",
            "PyTorch variable-length attention",
            _torch_varlen,
            modules=("torch.nn.attention.varlen",),
            minimum="2.10",
            capability=(8, 99),
            dtypes=_HALF,
            max_width=256,
        ),
        Backend("sdpa", "PyTorch scaled dot product attention", _sdpa),
        Backend(
            "sage",
            "SageAttention (8-bit, approximate)",
            _sage,
            modules=("sageattention",),
            package="sageattention",
            capability=(8, 99),
            dtypes=_HALF,
            max_width=128,
            trains=False,
            has_lse=False,
            exact=False,
        ),
    )
}
