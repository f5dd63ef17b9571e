"""Which weight of Wan's transformer a tensor of a LoRA file belongs to, by the names people have.

diffusers' own conversion is not used: it drops what changes norms and whole weights without a word,
needs every block to be there, and reads no alpha beside its own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .names import to_diffusers, to_wan

# Parts of a change, and how trainers end their names. A change of a weight is up @ down, scaled by
# alpha / rank, or a whole tensor that is added.
DOWN, UP, UP_BIAS, ALPHA = "down", "up", "up_bias", "alpha"
DIFF, DIFF_BIAS, DIFF_MODULATION = "diff", "diff_b", "diff_m"
_ENDINGS = {
    DOWN: r"\.lora_(?:down|A)(?:\.\w+)?\.weight|\.lora_A|[._]lora\.down\.weight"
    r"|\.lora_linear_layer\.down\.weight",
    UP: r"\.lora_(?:up|B)(?:\.\w+)?\.weight|\.lora_B|[._]lora\.up\.weight"
    r"|\.lora_linear_layer\.up\.weight",
    UP_BIAS: r"\.lora_(?:up|B)(?:\.\w+)?\.bias",
    ALPHA: r"\.alpha",
    DIFF: r"\.(?:diff|w_norm)",
    DIFF_BIAS: r"\.(?:diff_b|b_norm)",
    DIFF_MODULATION: r"\.diff_m",
}
_NAME = re.compile(
    r"(?:(?:model\.)?diffusion_model\.|transformer\.|base_model\.model\.|pipe\.dit\."
    r"|lora_unet__?|lycoris_)?(.+?)(?:"
    + "|".join(f"(?P<{part}>{ending})" for part, ending in _ENDINGS.items())
    + ")",
    re.ASCII,
)
_OTHER_KINDS = (
    ((".dora_scale", ".lora_magnitude_vector"), "DoRA"),
    ((".lokr_",), "LoKr"),
    ((".hada_",), "LoHa"),
    ((".oft_", ".boft_"), "OFT"),
    ((".lora_mid.",), "LoCon with a middle weight"),
    ((".set_weight", ".reshape_weight"), "LoRA that replaces whole weights"),
)
_IMAGE_BRANCH = re.compile(
    r"(?:^|[._])(?:(?:norm_)?k_img|v_img|img_emb|add_[kv]_proj|norm_added_k|image_embedder)[._]"
)
_LEAVES = {UP_BIAS: "bias", DIFF_BIAS: "bias", DIFF_MODULATION: "modulation"}


class Place(NamedTuple):
    """A weight of the model, in diffusers' name, and what of its change a tensor is."""

    weight: str
    part: str


class Names:
    """Finds the weights of one model by the names of LoRA files.

    weights: diffusers' names of all weights of the model.
    """

    def __init__(self, weights: Iterable[str]) -> None:
        self._weights = frozenset(weights)
        # kohya's names have "_" for every "."
        self._flat: dict[str, str] = {}
        for name in sorted(self._weights):
            for path in (name, to_wan(name) or name):
                module = path.rpartition(".")[0]
                self._flat[module.replace(".", "_")] = module

    def place(self, key: str) -> Place | None:
        """What a tensor of a LoRA changes; None for a name that fits nothing in the model."""
        if not (match := _NAME.fullmatch(key)):
            return None
        part, path = match.lastgroup, self._flat.get(match[1], match[1])
        leaf = _LEAVES.get(part, "weight")
        candidates = [f"{path}.{leaf}"] + [path] * (part == DIFF)
        for candidate in candidates:
            for name in (to_diffusers(candidate), candidate):
                if name in self._weights:
                    return Place(name, part)
        return None


def is_lora(key: str) -> bool:
    """Whether a tensor is of a LoRA by its name, whatever model it was made for."""
    return _NAME.fullmatch(key) is not None or other_kind((key,)) is not None


def other_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """The first key that no plain LoRA has, and the kind of adapter that has it."""
    for key in keys:
        for signs, kind in _OTHER_KINDS:
            if any(sign in key for sign in signs):
                return key, kind
    return None


def of_image_branch(key: str) -> bool:
    """Whether a name is of what Wan 2.1's image-to-video models look at a CLIP image through."""
    return _IMAGE_BRANCH.search(key) is not None


def own_name(name: str) -> str:
    """How Wan itself, and so ComfyUI, calls a weight of diffusers' transformer."""
    return to_wan(name) or name
