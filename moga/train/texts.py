"""Whether the texts of a training fit, before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from ..data.rows import Examined, refuse
from ..hosts.diffusers import token_count
from ..shots.script import shorten
from ..wan import TEXT_TOKENS
from .model_files import model_files
from .read_settings import SettingsError
from .settings import Settings
from .validation import script_texts


def check_texts(settings: Settings, rows: Sequence[Examined]) -> None:
    """Hold every text against data.text_tokens, beyond which its end would be lost.

    Raises RowsError with all shots that are too long, SettingsError for a text of a film.
    """
    tokenizer, limit = model_files(settings).text_encoder.tokenizer, settings.data.text_tokens
    read = min(limit, TEXT_TOKENS)
    fix = "shorten it" if limit >= TEXT_TOKENS else "shorten it, or raise data.text_tokens"

    @cache
    def too_long(text: str) -> str | None:
        count = token_count(tokenizer, prompt_clean(text))
        if count > read:
            return f"has {count} tokens and {read} are read ({shorten(text, 60)}); {fix}."
        return None

    def problems() -> Iterator[str]:
        for one in rows:
            for number, text in enumerate(one.row.texts, start=1):
                if problem := too_long(text):
                    place = f"line {one.row.line}, {one.row.video.name}"
                    yield f"{place}: shot {number}, with the global text, {problem}"

    refuse(list(problems()))
    for text in script_texts(settings):
        if problem := too_long(text):
            raise SettingsError(f"a text of validation's films {problem}")
