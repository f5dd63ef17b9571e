"""Wan's own names for its weights, diffusers' names for the same, and settings from shapes.

Every file of the Wan transformer that ComfyUI reads has the original names. The two sets of names
map one to one, so a model trained under diffusers goes back into such a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
HEAD_WIDTH = 128  # of every Wan
MOST_BLOCKS = 200  # in a model of any kind; the largest ones have a quarter of that

_TO_DIFFUSERS = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb": "condition_embedder.image_embedder",
    "head.head": "proj_out",
    "head": "",
}
_BLOCK_TO_DIFFUSERS = {
    **{
        f"{wan}.{part}": f"{diffusers}.{name}"
        for wan, diffusers in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part, name in (
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("o", "to_out.0"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
    "self_attn.router": "attn1.router",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "": "",
}
# Names of single parameters, where the two differ.
_LEAVES = {"modulation": "scale_shift_table", "emb_pos": "pos_embed"}
_BLOCK = re.compile(r"blocks\.(\d{1,4})\.(.+)", re.ASCII)


def to_diffusers(key: str) -> str | None:
    """diffusers' name of a weight of Wan's transformer, or None for a name that Wan hasn't."""
    return _rename(key, _TO_DIFFUSERS, _BLOCK_TO_DIFFUSERS, _LEAVES)


def to_wan(key: str) -> str | None:
    """The opposite of `to_diffusers`."""
    return _rename(key, *map(_swapped, (_TO_DIFFUSERS, _BLOCK_TO_DIFFUSERS, _LEAVES)))


def wan_prefix(keys: Iterable[str]) -> str:
    """What stands before Wan's names in a file: one of PREFIXES, or nothing."""
    keys = list(keys)
    return next((p for p in PREFIXES if any(key.startswith(p) for key in keys)), "")


def infer_config(shapes: Shapes) -> dict[str, Any] | None:
    """The settings of `WanTransformer3DModel` from the shapes of a file in Wan's names.

    None when the shapes are not those of a Wan transformer.
    """
    image = shapes.get("img_emb.proj.1.weight", (None, None))
    positions = shapes.get("img_emb.emb_pos", (None, None))
    try:
        dim, channels, *patch = shapes["patch_embedding.weight"]
        frames, rows, columns = patch
        text_dim = shapes["text_embedding.0.weight"][1]
        freq_dim = shapes["time_embedding.0.weight"][1]
        ffn_dim = shapes["blocks.0.ffn.0.weight"][0]
        out_channels = shapes["head.head.weight"][0] // (frames * rows * columns)
        image_dim, image_tokens = image[1], positions[1]
        heads, rest = divmod(dim, HEAD_WIDTH)
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        return None
    blocks = 1 + max(int(match[1]) for match in map(_BLOCK.fullmatch, shapes) if match)
    sizes = (heads, channels, text_dim, freq_dim, ffn_dim, out_channels)
    if rest or 0 in (*sizes, image_dim, image_tokens) or blocks > MOST_BLOCKS:
        return None
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": HEAD_WIDTH,
        "in_channels": channels,
        "out_channels": out_channels,
        "text_dim": text_dim,
        "freq_dim": freq_dim,
        "ffn_dim": ffn_dim,
        "num_layers": blocks,
        "cross_attn_norm": "blocks.0.norm3.weight" in shapes,
        "image_dim": image_dim,
        "added_kv_proj_dim": dim if "blocks.0.cross_attn.k_img.weight" in shapes else None,
        "pos_embed_seq_len": image_tokens,
    }


def _rename(
    key: str, outer: Mapping[str, str], block: Mapping[str, str], leaves: Mapping[str, str]
) -> str | None:
    match = _BLOCK.fullmatch(key)
    names, path = (block, match[2]) if match else (outer, key)
    parent, _, leaf = path.rpartition(".")
    renamed = names.get(parent)
    if renamed is None or "" in key.split(".") or leaf in leaves.values():
        return None
    path = ".".join(filter(None, (renamed, leaves.get(leaf, leaf))))
    return f"blocks.{match[1]}.{path}" if match else path


def _swapped(names: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in names.items()}
