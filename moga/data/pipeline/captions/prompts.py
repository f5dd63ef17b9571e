"""What an endpoint is asked: templates of Jinja, ours or the user's."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any

from ....errors import MogaError
from ..settings import Caption

LANGUAGES = {
    "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "pt": "Portuguese", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip
SHOT = ("film", "frames", "seconds", "shot", "shots")
SHARED = ("captions", "film", "seconds")
_ALWAYS = ("language", "words_least", "words_most")


class PromptError(MogaError, ValueError):
    """A template that cannot be used; the message names the file and the fix."""


def shot_prompt(settings: Caption, **known: Any) -> str:
    """What is asked of a shot. known: what SHOT names. Raises PromptError."""
    return _filled("caption.prompt", settings.prompt, "shot.jinja", settings, known)


def global_prompt(settings: Caption, **known: Any) -> str:
    """What is asked of a sample. known: what SHARED names. Raises PromptError."""
    return _filled("caption.global_prompt", settings.global_prompt, "global.jinja", settings, known)


def check_prompts(settings: Caption) -> None:
    """Raise PromptError for a template that would fail later."""
    shot_prompt(settings, film="a.mp4", frames=4, seconds=2.0, shot=1, shots=2)
    global_prompt(settings, film="a.mp4", captions=["a", "b"], seconds=[1.0, 2.0])


def _filled(
    name: str, path: Path | None, ours: str, settings: Caption, known: dict[str, Any]
) -> str:
    from jinja2 import StrictUndefined, TemplateError, UndefinedError
    from jinja2.sandbox import SandboxedEnvironment

    text = (
        files(__package__).joinpath(ours).read_text("utf-8") if path is None else _text(name, path)
    )
    language = settings.language
    values = {
        **known,
        "language": LANGUAGES.get(language, language or "any language"),
        "words_least": settings.words_least,
        "words_most": settings.words_most,
    }
    where = f"{name} is {path}"
    try:
        template = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True).from_string(
            text
        )
        return template.render(values).strip()
    except UndefinedError as error:
        word = str(error).partition("'")[2].partition("'")[0]
        near = difflib.get_close_matches(word, values, 1)
        fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(values))}."
        raise PromptError(f"{where}, whose {word!r} means nothing here; {fix}") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        line = getattr(error, "lineno", None)
        place = f"line {line}: " if line else ""
        raise PromptError(f"{where}, which is no template ({place}{error}); mend it.") from None


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PromptError(f"{name} is {path}, which is not UTF-8; save it as such.") from None
    except OSError as error:
        raise PromptError(
            f"{name} is {path}, which cannot be read ({error.strerror}); check the path."
        ) from None
