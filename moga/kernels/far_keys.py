"""Which keys of its group a token does not see near by, as ranges of packed positions.

Tokens are packed by group and, inside a group, lie in order of time. The queries of a segment share
a group and a temporal run, so the keys that they may see near by are one range of the group, too.

Letters: P packed positions, R segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class FarKeys:
    """What the queries of each segment see: their group, less what is near.

    cu: (R + 1,) int32, where segments begin and end among packed positions.
    group_start, near_start, near_stop, group_stop: (R,) int32 packed positions, in this order: the
        group's keys, and those of them that lie in the key frames of the segment's run.
    frame, window: (P,) int32 of the token at each packed position, None where that branch doesn't
        run. A key inside the near range is near when it shares one of them with the query.
    bits: whether frames differ modulo 16 inside a near range, and windows are 16 at most.
    """

    cu: Tensor
    group_start: Tensor
    near_start: Tensor
    near_stop: Tensor
    group_stop: Tensor
    frame: Tensor | None
    window: Tensor | None
    bits: bool = False

    @cached_property
    def code(self) -> Tensor:
        """Both in one number (P,) int32, as `coding` says."""
        parts = []
        if self.frame is not None:
            parts.append(1 << self.frame % 16 if self.bits else self.frame << 16)
        if self.window is not None:
            parts.append(1 << self.window + 16 if self.bits else self.window)
        return sum(parts[1:], parts[0]) if parts else self.cu

    @property
    def coding(self) -> int:
        """How codes show that a key is near: 0 none is, 1 by a bit that both have, 2 by the same
        upper half (frames), 3 lower half (windows), 4 either half."""
        if self.frame is None and self.window is None:
            return 0
        if self.bits:
            return 1
        return 4 if None not in (self.frame, self.window) else 3 if self.frame is None else 2
