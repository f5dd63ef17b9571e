"""Whether an answer is a caption: its length, its language, and that it is no refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ....shots import Shot, ShotScriptError
from ....shots.script import one_line
from ....toml_settings import SettingsError
from ..settings import Caption

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"\A```\w*\s*(.*?)\s*```\Z", re.DOTALL)
_TITLE = re.compile(r"\A(?:caption|description)\s*:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u00ab": "\u00bb"}
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I (?:can(?:'t|not| not)|won't) |"
    r"as an? (?:AI|(?:large )?language model)|unable to (?:see|view|assist|help|describe)|"
    r"(?:image|frame|picture|video)s? (?:was|were|is|are) not? (?:provided|attached|given)|"
    r"no (?:image|frame|picture|video)s? (?:was|were|is|are) (?:provided|attached|given))\b",
    re.IGNORECASE,
)
_FAR = 15.0  # by how much likelier another language is, as a logarithm
# A language that is written without spaces has about two signs to a word.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")


class AnswerError(ValueError):
    """An answer that is no caption; the message says why, for whoever gave it."""


@dataclass(frozen=True)
class Shared:
    """What the shots of a sample share, and what each of them says besides."""

    text: str
    captions: tuple[str, ...]


def caption_in(answer: str, settings: Caption) -> str:
    """The caption that an answer holds, in one line. Raises AnswerError."""
    text = one_line(_bare(answer))
    text = _TITLE.sub("", text)
    if text and _QUOTES.get(text[0]) == text[-1] and len(text) > 1:
        text = text[1:-1].strip()
    return _judged(text, settings, settings.words_least)


def shared_in(answer: str, count: int, settings: Caption) -> Shared:
    """The JSON that the second call answers with, for so many shots. Raises AnswerError."""
    text = _bare(answer)
    start, end = text.find("{"), text.rfind("}")
    try:
        data = json.loads(text[start : end + 1] if 0 <= start < end else text)
    except (ValueError, RecursionError):
        raise AnswerError("it is not JSON") from None
    shared = data.get("global") if isinstance(data, dict) else None
    captions = data.get("captions") if isinstance(data, dict) else None
    if not isinstance(shared, str) or not isinstance(captions, list):
        raise AnswerError('it is not of the form {"global": "...", "captions": ["..."]}')
    if len(captions) != count or not all(isinstance(caption, str) for caption in captions):
        raise AnswerError(f"captions has {len(captions)} texts and the film {count} shots")
    least = min(2, settings.words_least)  # as what all share is not said again
    said = tuple(_judged(one_line(caption), settings, least) for caption in captions)
    return Shared(_judged(one_line(shared), settings, least), said)


def words_in(text: str) -> int:
    """About how many words a text has, in any writing."""
    unspaced = len(_UNSPACED.findall(text))
    return len(_UNSPACED.sub(" ", text).split()) + (unspaced + 1) // 2


def _bare(answer: str) -> str:
    """An answer without what a model thought aloud, and without the fence around code."""
    text = _THOUGHT.sub("", answer)
    text = text.rpartition("</think>")[2].strip()  # some templates write the first tag themselves
    fenced = _FENCE.match(text)
    return fenced[1] if fenced else text


def _judged(text: str, settings: Caption, least: int) -> str:
    if not text:
        raise AnswerError("it is empty")
    if _REFUSAL.search(text[:200].replace("\u2019", "'")):
        raise AnswerError("it is a refusal")
    count = words_in(text)
    if not least <= count <= settings.words_most:
        raise AnswerError(f"it has {count} words and should have {least} to {settings.words_most}")
    try:
        Shot(text, frames=1)
    except ShotScriptError as error:
        raise AnswerError(str(error)) from None
    if settings.language and count >= 5 and (other := _language(text, settings.language)):
        raise AnswerError(f"it is written in {other} and should be in {settings.language}")
    return text


def check_language(settings: Caption) -> None:
    """Raises SettingsError for a language that answers can't be told by."""
    if settings.language:
        import py3langid

        known = {code for code, _ in py3langid.rank("a")}
        if settings.language not in known:
            raise SettingsError(
                f"caption.language is {settings.language!r}, which is no code of a language that "
                "can be told from others; give one such as en, zh or de, or nothing."
            )


def _language(text: str, wanted: str) -> str | None:
    """The language of a text where that is clearly not the wanted one."""
    import py3langid

    likely: Sequence[tuple[str, float]] = py3langid.rank(text)
    scores = dict(likely)
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] - scores[wanted] > _FAR else None
