"""Shots put together one by one, for those who wire them instead of writing a script."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .refusal import ShotScriptError
from .script import one_line, show
from .shots import Shot, ShotList


@dataclass(frozen=True)
class ShotChain:
    """Shots in order, before a frame rate is known. `global_caption` is given once for them all."""

    shots: tuple[Shot, ...] = ()
    global_caption: str = ""

    def then(self, shot: Shot, global_caption: str = "") -> ShotChain:
        """This chain and one more shot. Raises `ShotScriptError` for a second global caption."""
        given, new = self.global_caption, one_line(global_caption)
        if given and new and given != new:
            raise ShotScriptError(
                f"global is {show(new)} here and {show(given)} at a shot before; every shot reads "
                "it, so give it once."
            )
        return ShotChain((*self.shots, shot), given or new)

    def at(self, fps: Fraction | float | str) -> ShotList:
        """The shots at a frame rate. Raises `ShotScriptError`."""
        return ShotList(self.shots, fps, self.global_caption)
