"""Lines that people mean as more than captions, captions that only look so, and advice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moga.shots import ShotList, ShotScriptError
from moga.shots.lookalikes import misread

HELP = Path(__file__).resolve().parents[2] / "web" / "docs" / "MoGAShotSchedule.md"
ECHOSHOT = Path(__file__).resolve().parents[3] / "shared" / "data" / "echoshot_eval_en.json"


def refusal(script: str) -> str:
    with pytest.raises(ShotScriptError) as caught:
        ShotList.parse(script, 16)
    return str(caught.value)


# --- what is refused, wherever it stands and however it is set ------------------------------------

MARKS = st.lists(
    st.sampled_from(["- ", "* ", "**", "_", "### ", "> ", '"', "• ", "\u200b", "[", "("])
    | st.just("\U0001f3ac"),
    max_size=2,
).map("".join)  # fmt: skip
BEFORE = st.sampled_from(
    ["", "global: a\n", "global: a\nb\n\n", "[4s] a\n", "[4s] a\n# c\n\nb: c\n", "[97f]\n"]
)
AFTER = st.sampled_from(["", "\n[4s] z", "\nmore", "\n# c", "\n\n[1f] y\n[2f] x"])
REST = st.sampled_from(
    ["", "a fox", "Close-up: her eyes", "\u4f60\u597d", "[soft] light"]
) | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12).map("x".__add__)


def cased(words: str) -> st.SearchStrategy[str]:
    """Any of ``words`` in any mixture of capitals."""
    return st.sampled_from(words.split("|")).flatmap(
        lambda word: st.lists(
            st.booleans(), min_size=len(word), max_size=len(word)
        ).map(lambda ups: "".join(c.upper() if up else c for c, up in zip(word, ups, strict=True)))
    )  # fmt: skip


SETTINGS = cased(
    "negative prompt|negative_prompt|neg prompt|seed|fps|steps|cfg|cfg scale|size|width|height|"
    "length|duration|frame rate|\u53cd\u5411\u63d0\u793a\u8bcd|\u65f6\u957f"
)
COLONS = st.sampled_from(
    [":", " :", "\uff1a", " \uff1a", "\u3000:", "=", " = ", ":** ", '": ', " (px): "]
)
COUNTS = st.sampled_from(
    ["2", "12", "03", "#2", "# 2", "no. 2", "two", "Twelve", "II", "2-3", "2/5", "2 of 5", "1.2"]
)
ENDS = st.sampled_from(
    [
        ": ",
        "\uff1a",
        " : ",
        ". ",
        ") ",
        "] ",
        " - ",
        " – ",
        "—",
        ":** ",
        "** - ",
        " (wide): ",
        " | ",
    ]
)
SHOT_WORDS = cased("shot|scene|clip|cut|segment|sequence|part")
GAPS = st.sampled_from([" ", "", "  ", "_", "-"])
LABELS = st.one_of(
    st.builds("{}{}{}{}".format, SHOT_WORDS, GAPS, COUNTS, ENDS),
    st.builds("{} {}{}".format, cased("first|second|2nd|10th"), SHOT_WORDS, ENDS),
    st.builds(
        "{}{}".format,
        st.sampled_from(
            ["\u955c\u59342", "\u955c\u5934\u4e8c", "\u7b2c2\u955c", "\u7b2c\u4e09\u5e55"]
        ),
        COLONS,
    ),
    st.sampled_from(["2) ", "12: ", "#3: ", "2 - ", "(4) "]),
    st.sampled_from(["\u2460 ", "1\ufe0f\u20e3 ", "Shot #2 ", "Scene 3 A "]),
    st.builds(
        "{}{}".format,
        st.sampled_from(
            ["4s", "(2.5 sec)", "97 frames", "1m30s", "0-4s", "0:00-0:04", "00:04", "500ms"]
        ),
        st.sampled_from([": ", "\uff1a", ") ", " - "]),
    ),
)  # fmt: skip


def with_line(before: str, line: str, after: str) -> tuple[str, str]:
    """A script that holds ``line``, and how its refusal begins."""
    return before + line + after, f"script line {before.count(chr(10)) + 1}: "


@given(BEFORE, MARKS, SETTINGS, COLONS, REST, AFTER)
@example("[2s] a\n", "", "negative prompt", ":", "", "")
def test_no_setting_ends_in_a_caption(before, marks, name, colon, rest, after):
    script, where = with_line(before, f"{marks}{name}{colon}{rest}", after)
    said = refusal(script)
    assert said.startswith(where) and "is not part of a script; " in said


@given(BEFORE, MARKS, cased("global|negative"), COLONS, REST, AFTER)
@example("[2s] a\n", "", "negative", ":", "", "")
@example("", "", "negative", ":", "a", "\n[4s] z")
def test_what_stands_once_never_ends_in_a_caption(before, marks, name, colon, rest, after):
    try:
        shots = ShotList.parse(f"{before}{marks}{name}{colon}{rest}{after}", 16)
    except ShotScriptError:
        return
    assert not [text for text in shots.texts if name in text]


@given(BEFORE, MARKS.filter(lambda marks: "[" not in marks), LABELS, REST, AFTER)
@example("[2s] a\n", "", "Shot 2", "", "")
@example("[2s] a\n", "[", "Shot 2] ", "x", "")
def test_no_shot_without_a_length_ends_in_a_caption(before, marks, label, rest, after):
    script, where = with_line(before, marks + label + rest, after)
    said = refusal(script)
    assert said.startswith(where)
    assert "begins no shot" in said or "stands without square brackets" in said


@given(
    BEFORE,
    REST,
    st.sampled_from(["[4s]", "[ 2.5 sec ]", "[97f]", "\u30104s\u3011", "[1m]"]),
    REST,
    AFTER,
)
def test_no_length_inside_a_line_ends_in_a_caption(before, text, length, rest, after):
    for opener in ("- ", "b ", "[2s] b ", "Shot 2 "):
        script, where = with_line(before, f"{opener}{text}{length}{rest}", after)
        said = refusal(script)
        assert said.startswith(where) and "opens a shot only where a line begins" in said


# --- what is a caption ---------------------------------------------------------------------------

CAPTIONS = """\
Close-up: her eyes
Camera: slow push-in.
Style: 35mm
Shot: wide
Scene: a kitchen at night
Cut to: the kitchen
Negative space: all around her
Positive: a smile
Wide shot: the city
The second shot
Second hand shop: old clothes
Shot two ways
Shot 2 metres above the street
shot 3 metres up: roofs
Shot on 35mm film: grainy
Scene 2's light
Scene from a film, 1920s: smoke
Take 2: she laughs
Part of the city: roofs
2 women walk in
24 hours later: silence
3.5 metres tall
4K: sharp
5 cats: cute
80s diner
4 seconds later she turns
0.5 of a face
1940. A street in Paris.
24. She turns
$20. She pays
16:9 frame
3:15 in the morning
90 - 60 - 90
50mm: shallow focus
(size:1.2) matters
(negative:1.3), ((seed:.8))
embedding:negative
<lora:negative:0.5> a
#neon: pink
[wide] shot: a
[a 4] and [5m tall]
Seeds: scattered
Lengthy: a speech
Room 101: a cell
Frames her face
Height of summer: heat
Global warming: ice melts
\u955c\u5934\u7f13\u7f13\u63a8\u8fdb\uff1a\u8fdc\u5c71
\u573a\u666f\uff1a\u53a8\u623f
\u753b\u9762\uff1a\u96e8"""


@pytest.mark.parametrize("line", CAPTIONS.split("\n"))
def test_captions_stay_captions(line):
    shots = ShotList.parse(f"global: a\n{line}\n[2s] b.\n{line}\n[2s] {line}", 16)
    assert shots.global_caption == f"a {line}"
    assert [shot.caption for shot in shots.shots] == [f"b. {line}", line]


@pytest.fixture(scope="module")
def echoshot() -> list[str]:
    if not ECHOSHOT.is_file():
        pytest.skip(f"no {ECHOSHOT}: EchoShot's prompts come with the project's shared data")
    return [text for texts in json.loads(ECHOSHOT.read_text(encoding="utf-8")) for text in texts]


def test_real_captions_broken_anywhere_are_captions(echoshot):
    """A line may begin at any word of a caption, and end at any."""
    for caption in echoshot:
        words = caption.split(" ")
        for i in range(len(words)):
            for end in (i + 1, i + 2, i + 3, i + 12):
                assert misread(" ".join(words[i:end])) is None


@given(data=st.data())
def test_real_captions_in_any_lines_come_back(echoshot, data):
    caption = data.draw(st.sampled_from(echoshot))
    gaps = [gap.start() for gap in re.finditer(r"(?<=\S) (?=\S)", caption)]
    breaks = data.draw(st.sets(st.sampled_from(gaps)))
    lines = "".join("\n" if i in breaks else char for i, char in enumerate(caption))
    shots = ShotList.parse(f"global: {lines}\n[4s] {lines}\n[2s]\n{lines}", 16)
    assert shots.global_caption == caption
    assert [shot.caption for shot in shots.shots] == [caption] * 2


# --- the help page -------------------------------------------------------------------------------


def table(head: str) -> list[list[list[str]]]:
    """The texts in backticks of a table on the help page, by row and column."""
    _, _, rows = HELP.read_text(encoding="utf-8").partition(head)
    lines = rows.partition("\n\n")[0].splitlines()[2:]
    return [[re.findall(r"`(.+?)`", cell) for cell in line.split("|")[1:-1]] for line in lines]


def test_the_examples_on_the_help_page_are_scripts():
    examples = re.findall(r"```\n(.+?)```", HELP.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    for script in examples:
        shots = ShotList.parse(script, 16)
        assert shots.global_caption.startswith("A young woman in a red coat.")
    whole = ShotList.parse(examples[1], 16)
    assert (len(whole.shots), whole.negative) == (3, "blurry, text, watermark")
    assert ShotList.parse(examples[2], 16).negative == whole.negative


def test_the_help_page_says_what_is_refused():
    for _, refused, captions in table("| | Refused | Captions |"):
        assert refused and captions
        for line in refused:
            assert refusal(f"[4s] a\n{line}").startswith("script line 2: ")
        for line in captions:
            assert ShotList.parse(f"[4s] a\n{line}", 16).texts == (f"a {line}",)


def test_the_help_page_says_what_a_length_may_be():
    rows = table("| You write | It means |")
    for spellings, _ in rows:
        for spelling in spellings:
            assert ShotList.parse(f"{spelling} a", 16).texts == ("a",)
    assert len(rows) == 4


# --- advice --------------------------------------------------------------------------------------

BRACKETS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "-", "~", "0", "1", "4", "2.5", ".5", "97", "1,500", "0:04", "99999"]),
    st.text("0123456789.,:;-–—~ smfinechor'\"\u2033\u5206\u79d2", max_size=8),
)


@given(BRACKETS)
@example("0")
@example("2.5")
@example("1m30")
@example("4-2s")
@example("9" * 50)
@example("1:99:99")
@example("0-99999s")
def test_advice_can_be_typed_in_as_it_stands(inside):
    script = f"[{inside}] a"
    try:
        ShotList.parse(script, 16)
    except ShotScriptError as error:
        said = str(error).removeprefix("script line 1: ").removeprefix(f'"[{inside.strip()}]"')
        for bracket in re.findall(r"\[[^]]*\]", said.partition("; ")[2]):
            ShotList.parse(f"{bracket} a", 16)
