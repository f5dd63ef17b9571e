"""What people are told: errors whose message is one sentence for them, and nothing else is."""

from __future__ import annotations


class MogaError(Exception):
    """Something that the user can mend; the message is a sentence that says what and how.

    Every error of ours derives from it, with ValueError, RuntimeError or another of Python's own
    beside it where callers expect that.
    """


class MissingPackageError(MogaError, ImportError):
    """A package that isn't installed; the message holds the command that installs it."""


def sentence(error: BaseException, extra: str = "train") -> str | None:
    """What to tell of an error; None for one that nobody foresaw, which is a bug to be shown whole.

    Of what the system refused: which file, and in its own words why. extra: of this project, that
    brings what may be missing.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ModuleNotFoundError):
        return f'needs {error.name}; run `pip install -e ".[{extra}]"` in its folder.'
    if isinstance(error, (MogaError, OSError, ImportError)):
        words = str(error)
        return words if words.endswith(".") else f"{words}."
    return None
