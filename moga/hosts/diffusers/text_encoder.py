"""UMT5, which reads the captions, from the files that people have; and its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BatchEncoding, UMT5Config, UMT5EncoderModel

from ...checkpoint import CheckpointError
from ...errors import MissingPackageError
from ...wan import TEXT_TOKENS
from . import folders
from .calls import ShotMismatchError
from .names import MOST_BLOCKS, Shapes
from .weights import WeightFile, assemble

SPIECE = "spiece_model"  # ComfyUI's files carry the tokenizer as a tensor of bytes
_FIX = (
    "use ComfyUI's umt5_xxl_fp16.safetensors or umt5_xxl_bf16.safetensors (Comfy-Org/"
    "Wan_2.1_ComfyUI_repackaged), or the text_encoder and tokenizer of a Wan diffusers folder"
)


def load_text_encoder(
    path: str | os.PathLike[str], *, dtype: torch.dtype | None = None
) -> tuple[UMT5EncoderModel, Any]:
    """UMT5's encoder on the CPU, and its tokenizer.

    path: ComfyUI's repackaged safetensors file, which holds both, or a diffusers folder with
        `text_encoder` and `tokenizer` in it.
    dtype: None keeps what the file has. Nothing is downloaded. Raises CheckpointError.
    """
    if os.path.isdir(path):
        return _from_folder(Path(path), dtype)
    file = open_text_encoder(path)
    model = _assembled(file, umt5_config(file.shapes), dtype)
    return model, _own_tokenizer(file)


def load_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The tokenizer alone, out of what `load_text_encoder` takes."""
    if os.path.isdir(path):
        return _folder_tokenizer(Path(path))
    return _own_tokenizer(open_text_encoder(path))


def open_text_encoder(path: str | os.PathLike[str]) -> WeightFile:
    """The header of a single-file UMT5 with its tokenizer. Raises CheckpointError otherwise."""
    file = WeightFile.open(path)
    if umt5_config(file.shapes) is None:
        raise CheckpointError(
            f"{file.name} is not a UMT5 text encoder, it looks like {file.looks_like()}; {_FIX}."
        )
    file.refuse_quantised()
    if file.dtypes.get(SPIECE) != "U8":
        raise CheckpointError(f"{file.name} carries no tokenizer ({SPIECE}); {_FIX}.")
    return file


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


def _own_tokenizer(file: WeightFile) -> SentencePieceTokenizer:
    tokenizer = SentencePieceTokenizer(dict(file.read([SPIECE]))[SPIECE].numpy().tobytes())
    vocabulary = file.shapes["shared.weight"][0]
    if len(tokenizer) > vocabulary:
        raise CheckpointError(
            f"{file.name} has a tokenizer of {len(tokenizer)} tokens and an encoder of "
            f"{vocabulary}; {_FIX}."
        )
    return tokenizer


def text_encoder_folder(folder: Path) -> Path:
    """That of the encoder, inside the folder of a pipeline, where its tokenizer lies beside it."""
    found = folders.part(folder, "text_encoder")
    if found is None:
        raise CheckpointError(f"{folder} has no text_encoder; {_FIX}.")
    return found


def _from_folder(folder: Path, dtype: torch.dtype | None) -> tuple[UMT5EncoderModel, Any]:
    own, tokenizer = text_encoder_folder(folder), _folder_tokenizer(folder)
    model = _assembled(folders.weights(own), folders.read_config(own, UMT5Config), dtype)
    return model, tokenizer


def _assembled(
    file: WeightFile, config: dict[str, Any], dtype: torch.dtype | None
) -> UMT5EncoderModel:
    names = {key: key for key in file.shapes if key not in (SPIECE, "logit_scale")}
    found = file.dtype_of("shared.weight" if "shared.weight" in names else next(iter(names)), dtype)
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


def _folder_tokenizer(folder: Path) -> Any:
    own = folder / "tokenizer"
    if not os.path.isfile(own / "tokenizer_config.json"):
        raise CheckpointError(f"{folder} has no tokenizer; {_FIX}.")
    try:
        return AutoTokenizer.from_pretrained(own, local_files_only=True)
    except Exception as error:  # whatever transformers trips over
        raise folders.damaged(own, error) from error
