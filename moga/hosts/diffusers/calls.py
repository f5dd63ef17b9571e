"""What one call of the transformer works on, and how that travels to its attention layers.

Everything travels with the arguments of the call, never in a place that a later call could change:
a pre-hook on the transformer turns the caller's `ShotCall` into a `Call`, the RoPE tables carry it
into every block, and a block hands its text on together with who reads it. So a block that runs
again during backward (gradient checkpointing) sees the call that it belongs to, and calls of other
threads, other transformers or other text (classifier-free guidance) never see each other's.

Letters: B batch, L visual tokens, K text tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...attention.text import Reading, Span
from ...layout import ShotMismatchError, VideoLayout
from ...routing import Routing
from ...shots import ShotList
from ...wan import TEXT_TOKENS, video_frames

if TYPE_CHECKING:
    from ...parallel import SequenceShards

KEY = "moga"  # in attention_kwargs
# Of a block's number, the grid of the call, its input x (B, L, C), and q, k, v (B, L, N, D).
Watch = Callable[[int, VideoLayout, Tensor, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class ShotCall:
    """The shots of one call: `transformer(..., attention_kwargs={"moga": ShotCall(...)})`.

    starts: first latent frame of each shot, ascending, starting with 0.
    frames: latent frames of the video, held against the latent; None takes any.
    spans: tokens of each shot's text in `encoder_hidden_states` (without image tokens), as (start,
        stop); together they are the whole of it. None: every shot reads the whole text.
    dense: run self-attention as plain Wan in this call.
    """

    starts: tuple[int, ...] = (0,)
    frames: int | None = None
    spans: tuple[Span, ...] | None = None
    dense: bool = False

    @classmethod
    def of(cls, shots: ShotList, text_tokens: Sequence[int] | int | None = None) -> ShotCall:
        """The call for a shot list whose texts were encoded one by one and then joined.

        text_tokens: tokens of each shot's text, one number if they are all alike; None if one text
            serves all shots.
        """
        if text_tokens is None:
            return cls(shots.latent_starts, shots.latent_frames)
        if isinstance(text_tokens, int):
            text_tokens = [text_tokens] * len(shots.shots)
        ends = [0]
        for count in text_tokens:
            ends.append(ends[-1] + count)
        return cls(shots.latent_starts, shots.latent_frames, tuple(pairwise(ends)))


@dataclass
class Recorder:
    """Collects each layer's routing of one call, in order of the layers.

    A layer that runs again in backward is not heard twice: the first routing is the one whose
    gradient belongs to the loss.
    """

    routings: list[Routing]
    with_gradient: bool
    heard: set[int] = field(default_factory=set)

    def add(self, index: int, routing: Routing) -> None:
        if index in self.heard:
            return
        if self.with_gradient and not torch.is_grad_enabled():
            raise RuntimeError(
                "reentrant gradient checkpointing gives recorded routings no gradient; checkpoint "
                "with use_reentrant=False, as transformer.enable_gradient_checkpointing() does."
            )
        self.heard.add(index)
        self.routings.append(routing)


@dataclass(frozen=True)
class Call:
    """One call of the transformer, as its attention layers see it.

    layout: the grid of visual tokens; None where self-attention is plain in this call.
    spans: text tokens of each shot; None where the whole text is everybody's.
    text_tokens: how many of the context tokens are text, the last ones.
    shards: the ranks that share the tokens; None where this process has them all.
    watch: is shown a block's number, x, q, k and v before it attends, in dense calls too.
    """

    layout: VideoLayout | None
    shot_tokens: tuple[Span, ...]
    spans: tuple[Span, ...] | None
    text_tokens: int
    shards: SequenceShards | None = None
    recorder: Recorder | None = None
    watch: Callable[[int, Tensor, Tensor, Tensor, Tensor], None] | None = None

    def readings(self, context: int) -> tuple[Reading, ...] | None:
        """Who reads what out of `context` tokens, of which the first are an image's, if any.

        Of visual tokens, those that this process has, counted from its first.
        """
        if self.spans is None:
            return None
        own, last = (0, self.shot_tokens[-1][1]) if self.shards is None else self.shards.span
        image = context - self.text_tokens
        first = ((0, image),) if image else ()
        return tuple(
            Reading(
                (max(begin, own) - own, min(end, last) - own),
                (*first, (image + start, image + stop)),
            )
            for (begin, end), (start, stop) in zip(self.shot_tokens, self.spans, strict=True)
            if begin < last and end > own
        )


class ShotText(NamedTuple):
    """Context tokens (B, K, C) and who reads which; takes the context's place in a block."""

    context: Tensor
    readings: tuple[Reading, ...]


def build_call(
    given: Any,
    hidden_states: Tensor,
    text: Tensor,
    patch_size: Sequence[int],
    *,
    reads_image: bool,
    sparse: bool,
    share: Callable[[int], SequenceShards | None] = lambda tokens: None,
    recorder: Recorder | None = None,
    watch: Watch | None = None,
) -> Call:
    """Work out a call from what was passed as `attention_kwargs["moga"]` and its tensors.

    given: a ShotCall, a ShotList (one text for all shots), or None for a video of one shot.
    hidden_states: the latent (B, C, t, h, w). text: (B, K, C).
    share: the ranks that share so many tokens.
    Raises ShotMismatchError when they do not belong together.
    """
    if isinstance(given, ShotList):
        given = ShotCall.of(given)
    elif given is None:
        given = ShotCall()
    elif not isinstance(given, ShotCall):
        raise ShotMismatchError(
            f"attention_kwargs['moga'] is a {type(given).__name__}; pass a ShotCall or a ShotList."
        )
    sizes = zip(hidden_states.shape[2:], patch_size, strict=True)
    frames, height, width = (size // patch for size, patch in sizes)
    if given.frames not in (None, frames):
        raise ShotMismatchError(
            f"the latent has {frames} latent frames ({video_frames(frames)} video frames), but the "
            f"shots fill {given.frames} ({video_frames(given.frames)} video frames); "
            "make the latent for num_frames=shots.frames."
        )
    layout = VideoLayout(frames, height, width, given.starts)

    def show(block: int, *tensors: Tensor) -> None:
        watch(block, layout, *tensors)

    _check_spans(given, text.shape[1], reads_image)
    per_frame = layout.frame_tokens
    return Call(
        layout if sparse and not given.dense else None,
        tuple((first * per_frame, last * per_frame) for first, last in layout.shot_spans),
        given.spans,
        text.shape[1],
        share(layout.tokens),
        recorder,
        None if watch is None else show,
    )


def _check_spans(given: ShotCall, tokens: int, reads_image: bool) -> None:
    spans = given.spans
    if spans is None:
        return
    if len(spans) != len(given.starts):
        raise ShotMismatchError(
            f"the call has {len(given.starts)} shots, but spans for {len(spans)} texts; "
            "give each shot its own."
        )
    starts, stops = zip(*spans, strict=True)
    if starts != (0, *stops[:-1]) or stops[-1] != tokens or any(a >= b for a, b in spans):
        raise ShotMismatchError(
            f"encoder_hidden_states has {tokens} tokens, but the shots' texts are {spans}; join "
            "the text of every shot, the negative one too, as shot_inputs does."
        )
    lengths = {stop - start for start, stop in spans}
    if reads_image and lengths != {TEXT_TOKENS}:
        raise ShotMismatchError(
            f"the shots' texts have {sorted(lengths)} tokens, but diffusers' Wan 2.1 "
            f"image-to-video model takes the last {TEXT_TOKENS} as text and the rest as "
            f"image; pad each shot's text to {TEXT_TOKENS}."
        )
