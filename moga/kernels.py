"""The one table of what can run variable-length attention, and the choice between its rows.

Queries, keys and values come packed: all tokens of segment 0, then of segment 1, and so on; queries
of a segment attend to the keys of the same segment. The node's drop-down, the choice that `auto`
makes, the sentence for a missing backend and the README's table are all made from BACKENDS.
`python -m moga.kernels` prints what this machine has and what `auto` picks.

Letters: Q, K packed query and key tokens, S segments, N heads, D head width.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .backends import dense, varlen
from .segments import Segments

AUTO = "auto"
_HALF = (torch.float16, torch.bfloat16)
_HOPPER = 9
# Measured on an H100 (benchmarks/results): mean lengths up to which `triton`, reading in place, is
# faster than packing for `sdpa`. FlashAttention 3 is fast enough to win at any length.
_WINDOW_IN_PLACE = 800
_GROUP_IN_PLACE = 5000
_PLANS = 8  # batched calls for the windows of one layer beyond which cuDNN's plans cost too much


class BackendError(RuntimeError):
    """An attention backend that was asked for and cannot run; the message says what is missing."""


Run = Callable[[Tensor, Tensor, Tensor, Segments, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Backend:
    """One way to run packed attention.

    run: (q (Q, N, D), k (K, N, D), v (K, N, D), segments, want_lse)
        -> out (Q, N, D), log-sum-exp (Q, N) float32 or None.
    modules, package, minimum: what has to be importable (any one of them), and what to install.
    capability: least and greatest CUDA compute capability (major), None for any device.
    trains, has_lse: whether it has a backward pass, and gives the log-sum-exp.
    exact: False where the kernel quantises.
    auto: whether `auto` may take it as the backend of a whole layer.
    indexed: the same of tokens that need no packing, with q_index and k_index after v, see
        `backends.in_place.run_indexed`; None where the kernel cannot.
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
    auto: bool = True
    indexed: Callable[..., tuple[Tensor, Tensor | None]] | None = None
    refuses: Callable[[Tensor], str | None] = lambda q: None

    def missing(self) -> str | None:
        """What has to be installed before this backend can run, or None."""
        return _missing(self.modules, self.package, self.minimum)

    def device(self) -> str:
        """Where it runs, in words."""
        if self.capability is None:
            return "any device"
        least, most = self.capability
        name = {8: "Ampere", _HOPPER: "Hopper"}[least]
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
            return "gives no log-sum-exp, which combine='lse' needs"
        return self.refuses(q)


def attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, backend: Backend, *, lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Packed attention: out (Q, N, D) and, when asked for, its log-sum-exp (Q, N) float32."""
    if lse and dense.needs_grad(q, k, v):
        backend = BACKENDS["sdpa"]  # the others drop the gradient of the log-sum-exp
    return backend.run(q, k, v, segments, lse)


def select(
    name: str, q: Tensor, *, training: bool = False, lse: bool = False
) -> tuple[Backend, str]:
    """The backend to use for tensors like q, and a clause that says why.

    "auto" takes the first row of BACKENDS that is installed and fits; on Hopper `sdpa` comes before
    the FlashAttention 2 kernels, because cuDNN is 1.6 times as fast there. Any other name is used
    or refused: raises BackendError that says what is missing.
    """
    if name != AUTO:
        backend = require(name)
        reason = backend.unfit(q, training=training, lse=lse)
        if reason:
            raise BackendError(f"backend {name!r} {reason}; choose 'auto' or 'sdpa'.")
        return backend, "chosen by name"
    passed_over = []
    for backend in _candidates(q, training):
        reason = backend.missing() or backend.unfit(q, training=training, lse=lse)
        if reason is None:
            return backend, "; ".join(passed_over) or "the fastest there is"
        passed_over.append(f"{backend.name}: {reason}")
    raise BackendError("no attention backend fits: " + "; ".join(passed_over))


def _candidates(q: Tensor, training: bool) -> list[Backend]:
    """The rows that `auto` may take, the fastest first."""
    rows = [backend for backend in BACKENDS.values() if backend.auto]
    in_place = BACKENDS["triton"]
    if not training and dense.cudnn_fits(q) and not (in_place.missing() or in_place.unfit(q)):
        rows.sort(key=lambda backend: backend.name not in ("flash3", "sdpa"))
    return rows


def assign(
    name: str,
    q: Tensor,
    lengths: Mapping[str, tuple[float, int]],
    *,
    training: bool = False,
    lse: bool = False,
) -> dict[str, Backend]:
    """The backend of each branch of a layer; only "auto" mixes them, `sdpa` with `triton`.

    lengths: mean tokens of a segment of each branch, and how many batched calls of equal lengths
        it falls into.
    """
    base, _ = select(name, q, training=training, lse=lse)
    chosen = dict.fromkeys(lengths, base)
    in_place = BACKENDS["triton"]
    if name != AUTO or base.name != "sdpa" or training or not dense.cudnn_fits(q):
        return chosen
    if in_place.missing() or in_place.unfit(q, lse=lse):
        return chosen
    for branch, (mean, batches) in lengths.items():
        if branch == "windows" and (mean <= _WINDOW_IN_PLACE or batches > _PLANS):
            chosen[branch] = in_place
        if branch == "routed" and mean <= _GROUP_IN_PLACE:
            chosen[branch] = in_place
    return chosen


def table() -> str:
    """The backends as a Markdown table, which the README holds."""
    lines = ["| Name | What it is | Needs |", "| --- | --- | --- |"]
    for backend in BACKENDS.values():
        package = f"`{backend.package}`" + (f" {backend.minimum}" if backend.minimum else "")
        cells = (f"`{backend.name}`", backend.title, f"{package}; {backend.device()}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(device: torch.device | str | None = None) -> str:
    """What this machine has, what `auto` picks there for Wan's attention, and why."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q = torch.empty(1, 1, 1, 128, dtype=dtype, device=device)
    lines = [f"PyTorch {torch.__version__} on {what}, {str(dtype)[6:]}, head width 128"]
    for backend in BACKENDS.values():
        reason = backend.missing() or backend.unfit(q) or "can run"
        lines.append(f"  {backend.name:8} {reason}")
    for purpose, training in (("inference", False), ("training", True)):
        backend, why = select(AUTO, q, training=training)
        lines.append(f"auto, {purpose}: {backend.name} ({why})")
    lengths = {"windows": (_WINDOW_IN_PLACE, 1), "routed": (_GROUP_IN_PLACE, 1)}
    for branch, backend in assign(AUTO, q, lengths).items():
        lines.append(f"  {branch} of up to {lengths[branch][0]} tokens: {backend.name}")
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


def _in_place(*args: Tensor | Segments | bool | None) -> tuple[Tensor, Tensor | None]:
    return importlib.import_module(f"{__package__}.backends.in_place").run(*args)


def _indexed(*args: Tensor | Segments | bool | None) -> tuple[Tensor, Tensor | None]:
    return importlib.import_module(f"{__package__}.backends.in_place").run_indexed(*args)


def _triton_refuses(q: Tensor) -> str | None:
    width = q.shape[-1]
    return None if dense.triton_fits(q) else f"needs a power of two, not width {width}"


_FLASH = {"dtypes": _HALF, "max_width": 256}

# The order is the order in which `auto` tries them.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "flash3",
            "FlashAttention 3: the wheel, or built from source",
            varlen.flash3,
            modules=varlen.FLASH3,
            package="fa3-fwd",
            capability=(_HOPPER, _HOPPER),
            trains=False,
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
        Backend("sdpa", "PyTorch's dense attention, batched; cuDNN on Hopper", dense.run),
        Backend(
            "triton",
            "reads q, k and v in place: least memory; `auto` uses it beside `sdpa` on Hopper",
            _in_place,
            modules=("triton",),
            package="triton",
            capability=(8, 99),
            dtypes=_HALF,
            max_width=128,
            trains=False,
            auto=False,
            indexed=_indexed,
            refuses=_triton_refuses,
        ),
        Backend(
            "flash4",
            "FlashAttention 4; not measured here, never picked by `auto`",
            varlen.flash4,
            modules=("flash_attn.cute",),
            package="flash-attn-4",
            capability=(_HOPPER, 11),
            dtypes=_HALF,
            max_width=128,
            trains=False,
            auto=False,
        ),
        Backend(
            "sage",
            "SageAttention (8-bit, approximate), never picked by `auto`",
            varlen.sage,
            modules=("sageattention",),
            package="sageattention",
            capability=(8, 99),
            dtypes=_HALF,
            max_width=128,
            trains=False,
            has_lse=False,
            exact=False,
            auto=False,
        ),
    )
}

if __name__ == "__main__":
    print(report())
