"""Lines that begin like more than caption text, but say what a script cannot.

Taken for captions, `Negative prompt: blurry` would ask for what it means to forbid, and
`Shot 2: ...` would melt into the shot before it. In English and Chinese, the languages of Wan's
prompts (Chinese as escapes: checkers of packs read sources in cp1252).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from .durations import bare_duration

# Bullets, quotes and Markdown around the words that count; no currency, which begins amounts.
_MARKS = r"(?:[^\w$€£¥\u20b9]|_)*"
_CLOSING = r"[*_~\"'`’”]*"


@dataclass(frozen=True)
class Setting:
    """What has a value elsewhere: a pattern of its names, and what to do instead of naming it.

    A space in `names` stands for any of a space, `_` and `-`, or nothing.
    """

    names: str
    fix: str
    json_fix: str = ""  # where it is another

    @cached_property
    def _name(self) -> str:
        return f"(?:{self.names.replace(' ', '[ _-]?')})"

    @cached_property
    def _line(self) -> re.Pattern:
        aside, weight = r" ?\([^()]*\)", r" ?[\d.]+ ?\)"  # size (px): 1, but (size:1.2)
        end = rf"{_CLOSING}(?:{aside}{_CLOSING})? ?[:=](?!{weight})"
        return re.compile(f"{_MARKS}({self._name}){end}", re.IGNORECASE)

    def begins(self, line: str) -> str | None:
        """The name as `line` has it, if it begins with it and a colon or an equals sign."""
        match = self._line.match(line)
        return match and match[1]

    def is_key(self, key: str) -> bool:
        """Whether a key in JSON means this."""
        return bool(re.fullmatch(self._name, key.strip(), re.IGNORECASE))


_ON_THE_SAMPLER = "set it on the sampler."
SETTINGS = (
    Setting(
        "negative|negative (prompt|caption)s?|neg prompt|"
        "(\u8d1f\u9762|\u8d1f\u5411|\u53cd\u5411)(\u63d0\u793a\u8bcd?)?",
        "begin a line before the first shot with negative: and its text.",
        'write "negative" once, beside "shots".',
    ),
    Setting(
        "global|global (prompt|caption|text)|\u5168\u5c40(\u63d0\u793a\u8bcd?)?",
        "begin the line with global: and its text.",
        'write "global".',
    ),
    Setting("seed|(noise|random) seed|(\u968f\u673a)?\u79cd\u5b50", _ON_THE_SAMPLER),
    Setting("steps|sampling steps|num inference steps|\u6b65\u6570", _ON_THE_SAMPLER),
    Setting("cfg|cfg scale|guidance scale", _ON_THE_SAMPLER),
    Setting("sampler|sampler name|scheduler|denoise", _ON_THE_SAMPLER),
    Setting("fps|frame rate|\u5e27\u7387", "set fps beside the script."),
    Setting(
        "size|width|height|\u5c3a\u5bf8|\u5bbd\u5ea6|\u9ad8\u5ea6",
        "set it on the node that makes the latent, on the command line give --size.",
    ),
    Setting(
        "length|duration|seconds|frames|num frames|\u65f6\u957f|\u957f\u5ea6",
        "write the length of each shot in brackets before its text, such as [4s] or [97f].",
        "give each shot seconds or frames.",
    ),
)

_SHOT = "(?:shot|scene|clip|cut|segment|sequence|part)s?"
_ONES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_TEENS = "(?:thir|four|fif|six|seven|eigh|nine)teen|twenty"
_ORDINAL = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
_COUNT = rf"(?:[0-9]+(?:\.[0-9]+)*[a-z]?(?!\w)|(?:{_ONES}|{_TEENS})\b|(?-i:[IVX]+)\b)"
_NUMBER = rf"(?:#|no\.?|nr\.?|number)? ?{_COUNT}(?: ?(?:[-–/&+]|to|of) ?{_COUNT})?"
_SHOT_ZH = "(?:\u955c\u5934|\u5206\u955c|\u955c|\u573a\u666f|\u573a|\u7247\u6bb5|\u5e55)"
_COUNT_ZH = "(?:[0-9]+|[\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]+)"
# What sets a label off from the text that follows: not "Shot 2 metres above the street".
_PUNCTUATION = (
    r"[])}>\u3011:;|=([{<\u3001\u3002]",
    r"\.(?!\d)",
    "[\u2010-\u2015](?!\\d)",
    "-(?= |$)",
    r"(?<= )-(?!\d)",
    "$",
)
_SET_OFF = f"(?={_CLOSING} ?(?:{'|'.join(_PUNCTUATION)}))"
_ITEM_SET_OFF = (
    rf"(?={_CLOSING} ?(?:[]:)](?= |$)|[-\u2010-\u2015](?: (?=\D)|$)))"  # "24." may end a sentence
)
_LABELS = tuple(
    re.compile(f"{_MARKS}({label})", re.IGNORECASE)
    for label in (
        rf"{_SHOT}[ _-]*{_NUMBER}{_SET_OFF}",
        rf"{_SHOT} ?(?:# ?[0-9]+(?!\w)|[0-9]{{1,2}}(?= (?-i:[A-Z])))",  # Shot #2 wide, Shot 2 Wide
        rf"(?:{_ORDINAL}|[0-9]+(?:st|nd|rd|th)) {_SHOT}{_SET_OFF}",
        rf"{_SHOT_ZH} ?\u7b2c? ?{_COUNT_ZH}{_SET_OFF}"
        rf"|\u7b2c ?{_COUNT_ZH} ?\u4e2a? ?{_SHOT_ZH}{_SET_OFF}",
        rf"(?:#|no\.? ?)?[0-9]{{1,2}}{_ITEM_SET_OFF}",  # of a list: 2), #2:, 2 -
    )
)
_ENCIRCLED = re.compile(rf"{_MARKS}([\u2460-\u2473\u2776-\u277f\u2780-\u2793]|\d+\ufe0f?\u20e3)")


def misread(line: str) -> tuple[str, str] | None:
    """How `line` begins, if like a setting or a shot, and what to do about it; or else None."""
    # Full-width colons, digits and brackets become the plain ones.
    plain = " ".join(unicodedata.normalize("NFKC", line).split())
    for setting in SETTINGS:
        if name := setting.begins(plain):
            return f"{name}:", f"is not part of a script; {setting.fix}"
    labels = (_ENCIRCLED.match(line), *(pattern.match(plain) for pattern in _LABELS))
    if label := next(filter(None, labels), None):
        return label[1], (
            "begins no shot, a length in brackets does; write [4s] or [97f] in its place, or # and "
            "a space in front of it to make a comment."
        )
    if length := bare_duration(re.sub(f"^{_MARKS}", "", plain)):
        return length, (
            "stands without square brackets; write how long the shot lasts, such as [4s] or [97f]."
        )
    return None
