"""What a cache lacks, and what is said before it is filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.rows import Examined
from ..folders import unwritable
from .spec import CacheError, CacheSpec, Piece, all_pieces, latent_file, text_file


@dataclass(frozen=True)
class Missing:
    """Texts, and pieces by the files that they belong into. wanted: how many there are of each."""

    texts: list[str]
    pieces: dict[Path, Piece]
    wanted: tuple[int, int]

    def __bool__(self) -> bool:
        return bool(self.texts or self.pieces)


def find_missing(
    spec: CacheSpec, rows: Sequence[Examined], extra_texts: Sequence[str] = ()
) -> Missing:
    """What `make_cache` would have to write. Raises CacheError for a video that is gone."""
    spec.contents.of_all(row.row.video for row in rows)
    wanted = all_pieces(spec, rows)
    texts = dict.fromkeys(["", *extra_texts, *(text for piece in wanted for text in piece.texts)])
    by_file = {latent_file(spec, piece): piece for piece in wanted}
    return Missing(
        [text for text in texts if not text_file(spec, text).is_file()],
        {file: piece for file, piece in by_file.items() if not file.is_file()},
        (len(texts), len(by_file)),
    )


def say_what_is_stale(spec: CacheSpec, missing: Missing) -> None:
    """Tell of a cache that has much and nothing that fits: nobody expects it to be made again."""
    for part, lacking, wanted, made_by in (
        ("texts", missing.texts, missing.wanted[0], "this text encoder and type"),
        ("latents", missing.pieces, missing.wanted[1], "this VAE, size, frame rate and type"),
    ):
        held = sum(1 for _ in (spec.folder / part).glob("*.safetensors"))
        if held and lacking and len(lacking) == wanted:
            print(
                f"{spec.folder} holds {held} {part}, and none is of these clips by {made_by} (or "
                f"an older version named it), so all {wanted} are encoded. The old ones are not "
                "read; delete them unless another training does.",
                flush=True,
            )


def refuse_unwritable(spec: CacheSpec, missing: Missing) -> None:
    """Raise CacheError where something is missing and nothing can be written."""
    if missing and (why := unwritable(spec.folder)):
        raise CacheError(
            f"data.cache is {spec.folder}, which lacks {len(missing.texts)} texts and "
            f"{len(missing.pieces)} latents and cannot be written ({why}); choose another folder."
        )
