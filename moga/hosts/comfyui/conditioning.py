"""Shots in conditioning: made by the schedule node, checked and evened out before sampling.

Letters: B batch, X text tokens, C text width.
"""

from __future__ import annotations

import logging
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import comfy.conds
import torch

from ...attention.text import Span
from ...layout import ShotMismatchError
from ...shots import ShotList
from ...wan import video_frames
from .keys import TEXT_CONDITION
from .settings import Settings

Conditioning = list[list[Any]]


class ShotText(NamedTuple):
    """What the schedule leaves in a conditioning: plain data, compared by value.

    spans: text tokens of each shot. The rest says which shots they were made for.
    """

    latent_starts: tuple[int, ...]
    latent_frames: int
    spans: tuple[Span, ...]


class _ForMoga(comfy.conds.CONDConstant):
    """Shots in a conditioning that no node of ours has taken yet.

    `check_and_even` puts a plain constant in its place before the first step. Where a model without
    such a node samples, ComfyUI calls `process_cond`, before it calls the model.
    """

    def process_cond(self, batch_size: int, **kwargs: Any) -> comfy.conds.CONDConstant:
        raise ValueError(
            f"the conditioning has the texts of {len(self.cond.spans)} shots, but the model that "
            "samples it has no Apply MoGA or Apply Shot Prompts, so every frame would read all of "
            "them; put Apply Shot Prompts between the model and this sampler (or Apply MoGA, where "
            "there are routers) and connect the schedule's shots to it, or encode one prompt with "
            "CLIP Text Encode instead of the Multi-Shot Prompt Schedule."
        )


def encode_shots(clip: Any, shots: ShotList) -> Conditioning:
    """Conditioning of a shot list: each shot's text encoded by itself, one after the other.

    clip: a ComfyUI CLIP. Each text is encoded once, however many shots say it.
    """
    if clip is None:
        raise ValueError(
            "clip is empty: the checkpoint it comes from holds no text encoder; "
            "load UMT5 with Load CLIP, type wan."
        )
    encoded = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in shots.texts}
    per_shot = [encoded[text] for text in shots.texts]
    # One entry, unless the CLIP changes over sampling: then one for each of its time ranges.
    return [_join(entries, shots) for entries in zip(*per_shot, strict=True)]


def encode_negative(clip: Any, shots: ShotList) -> Conditioning:
    """Conditioning of what no shot should show: one text, which every shot reads."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(shots.negative))


def _join(entries: tuple[list[Any], ...], shots: ShotList) -> list[Any]:
    tensors = [tensor for tensor, _ in entries]
    extras = dict(entries[0][1])
    spans = tuple(pairwise(accumulate((t.shape[1] for t in tensors), initial=0)))
    text = ShotText(shots.latent_starts, shots.latent_frames, spans)
    extras["model_conds"] = _with_text(extras, _ForMoga(text))
    return [torch.cat(tensors, dim=1), extras]


def _with_text(cond: dict[str, Any], constant: comfy.conds.CONDConstant) -> dict[str, Any]:
    return {**cond.get("model_conds", {}), TEXT_CONDITION: constant}


def shot_text(cond: dict[str, Any]) -> ShotText | None:
    """The shots that a conditioning entry was made for, if a schedule made it."""
    constant = cond.get("model_conds", {}).get(TEXT_CONDITION)
    return None if constant is None else constant.cond


def check_and_even(
    conds: dict[str, list[dict[str, Any]]], settings: Settings, frames: int, most_leading: float
) -> bool:
    """Before the first step: refuse what does not belong together, then even out token counts.

    Returns whether any conditioning has texts of the shots.

    conds: a guider's own copies, by name ("positive", "negative"), changed in place.
    frames: latent frames of what is sampled, of which the first `most_leading` may be reference
        frames of the model's.
    Raises ShotMismatchError.
    """
    shots = settings.shots
    if shots is not None:
        _check_latent(shots, frames, most_leading)
    texts = []
    for name, entries in conds.items():
        for cond in entries:
            if (text := shot_text(cond)) is not None:
                _check_text(name, text, settings)
                cond["model_conds"] = _with_text(cond, comfy.conds.CONDConstant(text))
                texts.append(text)
    if texts:
        for name, entries in conds.items():
            for cond in entries:
                _even(name, cond, texts[0])
    elif shots is not None and len(shots.shots) > 1:
        logging.warning(
            "MoGA: shots are connected, but no conditioning comes from the schedule: every shot "
            "reads the whole prompt; connect the schedule's positive output to give each its own."
        )
    return bool(texts)


def _check_latent(shots: ShotList, frames: int, most_leading: float) -> None:
    needed = shots.latent_frames
    if not needed <= frames <= needed + most_leading:
        raise ShotMismatchError(
            f"the latent has {frames} latent frames ({video_frames(frames)} video frames), but the "
            f"shots fill {needed} ({shots.frames} video frames); connect the schedule's length "
            "output to the length input of the node that makes the latent."
        )
    if frames > needed:
        logging.info(
            "MoGA: latent frames taken for reference frames, before the shots: %d.",
            frames - needed,
        )


def _check_text(name: str, text: ShotText, settings: Settings) -> None:
    shots, node = settings.shots, settings.node
    made_for = f"{len(text.spans)} shots over {text.latent_frames} latent frames"
    fix = f"connect the shots output of the same Multi-Shot Prompt Schedule to {node}."
    if shots is None:
        raise ShotMismatchError(
            f"the {name} conditioning was made for {made_for}, but {node} was given no shots; {fix}"
        )
    if (text.latent_starts, text.latent_frames) != (shots.latent_starts, shots.latent_frames):
        raise ShotMismatchError(
            f"the {name} conditioning was made for {made_for} with cuts at {text.latent_starts}, "
            f"{node} was given {len(shots.shots)} shots over {shots.latent_frames} with cuts "
            f"at {shots.latent_starts}; {fix}"
        )


def _even(name: str, cond: dict[str, Any], text: ShotText) -> None:
    """Give a conditioning without shots the token count of those with, where that is exact.

    Every shot reads the whole of it, so repeating it once per shot changes nothing, and ComfyUI
    can then run positive and negative in one call.
    """
    tokens = cond.get("cross_attn")
    if shot_text(cond) is not None or tokens is None:
        return
    if all(stop - start == tokens.shape[1] for start, stop in text.spans):
        cond["cross_attn"] = tokens.repeat(1, len(text.spans), 1)
        cond["model_conds"] = _with_text(cond, comfy.conds.CONDConstant(text))
    else:
        logging.info(
            "MoGA: the %s conditioning runs as a call of its own (its %d tokens are not those of "
            "every shot's text), which takes somewhat longer; shorter captions avoid it.",
            name,
            tokens.shape[1],
        )
