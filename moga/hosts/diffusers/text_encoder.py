"""UMT5, which reads the captions, from the files that people have; and its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BatchEncoding, UMT5Config, UMT5EncoderModel

from ...checkpoint import CheckpointError
from ...errors import MissingPackageError
from ...tensor_file import TensorFile
from ...wan import TEXT_TOKENS
from . import folders
from .calls import ShotMismatchError
from .names import MOST_BLOCKS, Shapes
from .parts import Part, PathLike, find
from .recognise import looks_like
from .weights import assemble, dtype_of, refuse_quantised

SPIECE = "spiece_model"  # ComfyUI's files carry the tokenizer as a tensor of bytes
_FIX = (
    "use ComfyUI's umt5_xxl_fp16.safetensors or umt5_xxl_bf16.safetensors (Comfy-Org/"
    "Wan_2.1_ComfyUI_repackaged), or the text_encoder and tokenizer of a Wan diffusers folder"
)


@dataclass(frozen=True, eq=False)
class TextEncoder(Part):
    """UMT5's encoder with its tokenizer. tokens: the tokenizer's folder; None where the file of
    weights carries it."""

    tokens: Path | None

    @cached_property
    def tokenizer(self) -> Any:
        """Raises CheckpointError where it is damaged."""
        return _own_tokenizer(self.weights) if self.tokens is None else _saved(self.tokens)

    def load(self, dtype: torch.dtype | None = None) -> tuple[UMT5EncoderModel, Any]:
        """The encoder on the CPU, and its tokenizer. dtype: None keeps what the file has."""
        return _assembled(self.weights, self.config, dtype), self.tokenizer


def load_text_encoder(
    path: PathLike | TextEncoder, *, dtype: torch.dtype | None = None
) -> tuple[UMT5EncoderModel, Any]:
    """UMT5's encoder on the CPU, and its tokenizer.

    path: ComfyUI's repackaged safetensors file, which holds both, or a diffusers folder with
        `text_encoder` and `tokenizer` in it; or what `open_text_encoder` made of it.
    dtype: None keeps what the file has. Nothing is downloaded. Raises CheckpointError.
    """
    return open_text_encoder(path).load(dtype)


def load_tokenizer(path: PathLike | TextEncoder) -> Any:
    """The tokenizer alone, out of what `load_text_encoder` takes."""
    return open_text_encoder(path).tokenizer


def open_text_encoder(path: PathLike | TextEncoder) -> TextEncoder:
    """Open a UMT5 as `load_text_encoder` takes it. Raises CheckpointError for anything else."""
    if isinstance(path, TextEncoder):
        return path
    file, folder, config = find(path, "text_encoder", UMT5Config, otherwise=_FIX)
    if folder is not None:
        tokens = folder.parent / "tokenizer"
        if not os.path.isfile(tokens / "tokenizer_config.json"):
            raise CheckpointError(f"{path} has no tokenizer; {_FIX}.")
        return TextEncoder(Path(path), config, file, tokens)
    config = umt5_config(file.shapes)
    if config is None:
        raise CheckpointError(
            f"{file.name} is not a UMT5 text encoder, it looks like {looks_like(file.shapes)}; "
            f"{_FIX}."
        )
    refuse_quantised(file)
    if file.dtypes.get(SPIECE) != "U8":
        raise CheckpointError(f"{file.name} carries no tokenizer ({SPIECE}); {_FIX}.")
    return TextEncoder(Path(path), config, file, None)


def umt5_config(shapes: Shapes) -> dict[str, Any] | None:
    """Settings of transformers' `UMT5Config` from the shapes of a file; None for another model."""
    try:
        vocabulary, width = shapes["shared.weight"]
        block = "encoder.block.0.layer"
        buckets, heads = shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"]
        inner = shapes[f"{block}.0.SelfAttention.q.weight"][0]
        wide = shapes[f"{block}.1.DenseReluDense.wi_0.weight"][0]
        # T5 proper has the position bias in its first block alone.
        layers = sum(key.endswith("relative_attention_bias.weight") for key in shapes)
        blocks = sum(key.endswith("SelfAttention.q.weight") for key in shapes)
    except (KeyError, ValueError, IndexError):
        return None
    if layers != blocks or blocks > MOST_BLOCKS:
        return None
    if 0 in (vocabulary, width, buckets, heads, wide) or not inner or inner % heads:
        return None
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": wide,
        "num_layers": blocks,
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


class SentencePieceTokenizer:
    """The tokenizer that a text encoder file carries, as Wan's pipelines call one.

    model: a serialised sentencepiece model. Text ends with token 1 and is padded with 0.
    """

    pad_token_id = 0
    eos_token_id = 1

    def __init__(self, model: bytes) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise MissingPackageError(
                "the text encoder needs sentencepiece; run `pip install sentencepiece`."
            ) from None
        try:
            self._pieces = SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError):
            raise CheckpointError(
                f"the tokenizer in the text encoder file is damaged; {_FIX}."
            ) from None

    def __len__(self) -> int:
        return self._pieces.get_piece_size()

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with the end token."""
        return [*self._pieces.encode(text), self.eos_token_id]

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        max_length: int,
        padding: str = "max_length",
        truncation: bool = True,
        **_: Any,
    ) -> BatchEncoding:
        """input_ids and attention_mask, each (texts, max_length) int64."""
        texts = [text] if isinstance(text, str) else list(text)
        ids = torch.full((len(texts), max_length), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(texts):
            found = self.ids(one)
            if len(found) > max_length:
                found = [*found[: max_length - 1], self.eos_token_id]
            ids[row, : len(found)] = torch.tensor(found)
            mask[row, : len(found)] = 1
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text as the encoder reads it, its end mark included."""
    return len(tokenizer.ids(text) if hasattr(tokenizer, "ids") else tokenizer(text).input_ids)


def check_lengths(tokenizer: Any, texts: Sequence[str], length: int = TEXT_TOKENS) -> None:
    """Raise ShotMismatchError for a text of more than `length` tokens: its end would be lost."""
    for text in dict.fromkeys(texts):
        if (count := token_count(tokenizer, text)) > length:
            raise ShotMismatchError(
                f"a shot's text has {count} tokens and {length} are read ({text[:60]!r}...); "
                "shorten its caption or the global one."
            )


def _own_tokenizer(file: TensorFile) -> SentencePieceTokenizer:
    tokenizer = SentencePieceTokenizer(dict(file.read([SPIECE]))[SPIECE].numpy().tobytes())
    vocabulary = file.shapes["shared.weight"][0]
    if len(tokenizer) > vocabulary:
        raise CheckpointError(
            f"{file.name} has a tokenizer of {len(tokenizer)} tokens and an encoder of "
            f"{vocabulary}; {_FIX}."
        )
    return tokenizer


def _assembled(
    file: TensorFile, config: Mapping[str, Any], dtype: torch.dtype | None
) -> UMT5EncoderModel:
    names = {key: key for key in file.shapes if key not in (SPIECE, "logit_scale")}
    probe = "shared.weight" if "shared.weight" in names else next(iter(names))
    found = dtype_of(file, probe, dtype)
    model = assemble(
        lambda: UMT5EncoderModel(UMT5Config(**config)),
        file,
        names,
        found,
        what="UMT5's encoder",
        # In half precision the sums in there overflow; transformers keeps it wide then, too.
        keep=("wo",) if found == torch.float16 else (),
        tied=("encoder.embed_tokens.weight",),
    )
    model.encoder.embed_tokens.weight = model.shared.weight
    return model


def _saved(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever transformers trips over
        raise folders.damaged(folder, error) from error
