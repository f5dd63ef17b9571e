"""How strong a LoRA is by what diffusers notes in its header, where it has no alpha of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft.utils.other import get_pattern_key

from ...checkpoint import CheckpointError
from ...shots.script import shorten
from ...tensor_file import TensorFile


class NotedAlpha(NamedTuple):
    """What diffusers notes in the header of a LoRA that it saves; else a LoRA's scale is 1."""

    alpha: float | None = None
    patterns: Mapping[str, float] = {}
    by_root: bool = False

    @classmethod
    def of(cls, file: TensorFile) -> NotedAlpha:
        text = file.metadata.get(LORA_ADAPTER_METADATA_KEY)
        if not text:
            return cls()
        try:
            noted: dict[str, Any] = json.loads(text)
            noted = {key.removeprefix("transformer."): value for key, value in noted.items()}
            alpha = noted.get("lora_alpha")
            alpha = None if alpha is None else float(alpha)
            patterns = {k: float(v) for k, v in dict(noted.get("alpha_pattern") or {}).items()}
            if not all(map(math.isfinite, (alpha or 0, *patterns.values()))):
                raise ValueError("alpha is not finite")
            get_pattern_key(list(patterns), "")
        except Exception as error:  # of json, or of what is in place of a number or a pattern
            raise CheckpointError(
                f"{file.name} has {LORA_ADAPTER_METADATA_KEY} in its header that cannot be read "
                f"({shorten(str(error), 100)}); save it again with diffusers."
            ) from None
        return cls(alpha, patterns, bool(noted.get("use_rslora")))

    def scale(self, module: str, rank: int) -> float:
        alpha = self.patterns.get(get_pattern_key(list(self.patterns), module), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.by_root else rank)
