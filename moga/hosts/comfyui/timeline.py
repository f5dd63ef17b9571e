"""What the page's timeline asks: where the shots of a script lie, and the script with a cut moved.

The page neither reads nor writes the grammar of scripts: it draws what is answered here, and puts
into the text box what is returned. A run gives the same picture of what reached its node.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat
from typing import Any

from ...shots import ShotList, ShotScriptError
from ...shots.edit import add_shot, move_cut, shot_lines
from ...shots.script import shorten
from ...wan import PATCH, SPATIAL_STRIDE, TEMPORAL_STRIDE, WIDE_SPATIAL_STRIDE

PATH = "/moga/timeline"
MAX_BODY = 256 * 1024  # bytes
_MAX_SHOTS, _MAX_CAPTION = 500, 200  # that are drawn; what is counted has no such end
_MAX_SIDE = 65_536  # pixels
_WIDE_LATENTS = ("Wan22ImageToVideoLatent",)  # nodes that make latents of the 5B model
_USUAL_SIZE = (832, 480)


class BadRequest(Exception):
    """A request that no page of ours sends."""


@dataclass(frozen=True)
class Size:
    """Width and height of the video in pixels, and those of a latent column."""

    width: int = _USUAL_SIZE[0]
    height: int = _USUAL_SIZE[1]
    stride: int = SPATIAL_STRIDE

    def tokens(self, latent_frames: int) -> int:
        columns, rows = (
            math.ceil(side // self.stride / PATCH) for side in (self.width, self.height)
        )
        return latent_frames * rows * columns


def picture(shots: ShotList, lines: list[int] | None = None, size: Size | None = None) -> dict:
    """What the page draws of `shots`, whose lines in a script are `lines`. For JSON."""
    size = size or Size()
    starts, counts = shots.frame_starts, shots.frame_counts
    rows = zip(shots.shots, shots.rows(), starts, counts, lines or repeat(None), strict=False)
    return {
        "shots": [
            {
                "caption": shorten(shot.caption, _MAX_CAPTION),
                "asked": shorten(asked, 20),
                "line": line,
                "start": start,
                "frames": frames,
                "seconds": seconds,
                "at": at,
            }
            for shot, (_, asked, _, seconds, _, at, _), start, frames, line in islice(
                rows, _MAX_SHOTS
            )
        ],
        "fps": float(shots.fps),
        "frames": shots.frames,
        "step": TEMPORAL_STRIDE,
        "summary": f"{shots.summary()}, {size.tokens(shots.latent_frames):,} tokens at "
        f"{size.width} x {size.height}",
    }


def answer(body: bytes) -> tuple[int, dict]:
    """The status and the JSON for a request: a picture, an edited script with its own, or an error.

    An error is {"line", "column", "message"}; what is not known of them is null.
    """
    try:
        request = _read(body)
    except BadRequest as error:
        return 400, _error(str(error))
    script, fps, reply = request["script"], request["fps"], {}
    try:
        if request["edit"] is not None:
            script = reply["script"] = _edited(script, fps, request["edit"])
        reply["timeline"] = picture(
            ShotList.parse(script, fps), shot_lines(script), request["size"]
        )
    except ShotScriptError as error:
        return 200, _error(str(error), error.line, error.column)
    return 200, reply


def _error(message: str, line: int | None = None, column: int | None = None) -> dict:
    return {"error": {"line": line, "column": column, "message": message}}


def _read(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if not isinstance(asked, Mapping):
        raise BadRequest("the body is no object")
    script, fps, edit = asked.get("script"), asked.get("fps"), asked.get("edit")
    if not isinstance(script, str):
        raise BadRequest("script is no text")
    if not _is_number(fps):
        raise BadRequest("fps is no number")
    if edit is not None and not isinstance(edit, Mapping):
        raise BadRequest("edit is no object")
    return {"script": script, "fps": fps, "size": _size(asked.get("latent")), "edit": edit}


def _size(latent: Any) -> Size | None:
    """The size that a node makes a latent of; None where that is not known."""
    if not isinstance(latent, Mapping):
        return None
    width, height = latent.get("width"), latent.get("height")
    if not all(_is_number(side) and 0 < side <= _MAX_SIDE for side in (width, height)):
        return None
    wide = latent.get("node") in _WIDE_LATENTS
    return Size(int(width), int(height), WIDE_SPATIAL_STRIDE if wide else SPATIAL_STRIDE)


def _edited(script: str, fps: float, edit: Mapping[str, Any]) -> str:
    if edit.get("add") is True:
        return add_shot(script, fps)
    cut, seconds = edit.get("cut"), edit.get("seconds")
    if not isinstance(cut, int) or isinstance(cut, bool) or not _is_number(seconds):
        raise ShotScriptError("edit is neither a cut and its seconds, nor add.")
    return move_cut(script, fps, cut, Fraction(seconds))


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return isinstance(value, int) or math.isfinite(value)
