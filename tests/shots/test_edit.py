"""Changes to a script: only what was meant changes, in either form, however it is written."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.shots import Shot, ShotList, ShotScriptError
from moga.shots.edit import NEW_CAPTION, add_shot, move_cut, shot_lines

CAPTIONS = st.sampled_from(
    ["A fox.", "4 seconds later", 'She says "no".', "a {b|c} [wide]", "\u732b \\ (x:1.2)"]
)
SPELT = st.sampled_from(["{}s", " {} sec", "{} seconds ", '{}"', "{}s."])
SECONDS = st.decimals(min_value="0.01", max_value=90, places=2)
LENGTHS = (
    st.builds(lambda spelt, number: spelt.format(number), SPELT, SECONDS)
    | st.builds("{}f".format, st.integers(1, 400))
    | st.builds("{} frames".format, st.integers(1, 400))
    | st.builds("{}m{}s".format, st.integers(1, 3), st.integers(1, 59))
    | st.builds("{}ms".format, st.integers(20, 9000))
    | st.builds("{},{}s".format, st.integers(0, 9), st.integers(10, 99))
)
BRACKETS = st.sampled_from(["[]", "\uff3b\uff3d", "\u3010\u3011"])
OTHER_LINES = st.lists(st.sampled_from(["", "# [4s] no shot", "   ", "and goes on"]), max_size=2)
HEADS = st.sampled_from(
    [[], ["# c"], ["global: A."], ["", "global: A.", "#"], ["negative: A.", "global: B."]]
)
FPS = st.sampled_from([8, 12.5, 16, 23.976, "24000/1001", 24, 60, 120])
FORMS = st.sampled_from(["text", "json"])


@st.composite
def texts(draw, least=1):
    """A script as people write it, of at least so many shots."""
    lines = draw(HEADS)
    for _ in range(draw(st.integers(least, 6))):
        opening, closing = draw(BRACKETS)
        indent = draw(st.sampled_from(["", "  ", "\t"]))
        lines = [*lines, f"{indent}{opening}{draw(LENGTHS)}{closing} {draw(CAPTIONS)}"]
        lines += draw(OTHER_LINES)
    return draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)


@st.composite
def scripts(draw, least=1):
    text, fps = draw(texts(least)), draw(FPS)
    if draw(FORMS) == "json":
        text = ShotList.parse(text, fps).to_json()
        if draw(st.booleans()):
            text = re.sub(r"\n *", " ", text)
    return text, fps


def without_lengths(text):
    """A script's text with a mark for each length: all that an edit has to leave alone."""
    marked = re.sub(r'("(?:seconds|frames)": )[\d.]+', r"\1@", text)
    return re.sub("(?m)^(\\s*[\\[\uff3b\u3010])[^\\]\uff3d\u3011]*", r"\1@", marked)


@given(scripts(least=2), st.data())
def test_a_moved_cut_changes_two_lengths(script, data):
    text, fps = script
    before = ShotList.parse(text, fps)
    cut = data.draw(st.integers(1, len(before.shots) - 1))
    second = data.draw(st.fractions(min_value=-9, max_value=before.seconds + 9))
    moved = move_cut(text, fps, cut, second)
    after = ShotList.parse(moved, fps)

    assert without_lengths(moved) == without_lengths(text.replace("\r\n", "\n").replace("\r", "\n"))
    assert after.latent_frames == before.latent_frames
    starts, old = list(after.latent_starts), before.latent_starts
    new = starts.pop(cut)
    assert starts == [*old[:cut], *old[cut + 1 :]]
    for number, (shot, other) in enumerate(zip(before.shots, after.shots, strict=True)):
        assert shot == other or (number in (cut - 1, cut) and new != old[cut])
        assert (shot.seconds is None) == (other.seconds is None)
    # The nearest latent frame that leaves each neighbour one.
    room = range(old[cut - 1] + 1, old[cut] + before.latent_counts[cut])
    times = {latent: Fraction(4 * latent - 3) / before.fps for latent in room}
    assert new in room
    assert abs(times[new] - second) == min(abs(time - second) for time in times.values())


@given(scripts(least=2), st.data())
def test_a_cut_that_is_put_where_it_is_changes_no_text(script, data):
    text, fps = script
    shots = ShotList.parse(text, fps)
    cut = data.draw(st.integers(1, len(shots.shots) - 1))
    again = move_cut(text, fps, cut, shots.frame_starts[cut] / shots.fps)
    assert again == text.replace("\r\n", "\n").replace("\r", "\n")


@given(scripts())
def test_an_added_shot_is_the_last_and_as_long_as_the_one_before(script):
    text, fps = script
    before = ShotList.parse(text, fps)
    last = before.shots[-1]
    after = ShotList.parse(add_shot(text, fps), fps)
    assert (after.global_caption, after.negative) == (before.global_caption, before.negative)
    assert after.shots == (*before.shots, Shot(NEW_CAPTION, last.seconds, last.frames))


@given(texts(), FPS)
def test_lines_are_where_shots_open(text, fps):
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    shots = ShotList.parse(text, fps).shots
    opened = shot_lines(text)
    assert len(opened) == len(shots)
    for line, shot in zip(opened, shots, strict=True):
        assert lines[line - 1].strip()[0] in "[\uff3b\u3010"
        assert shot.caption.startswith(
            re.split(r"[]\uff3d\u3011]", lines[line - 1], maxsplit=1)[1].strip()
        )


def test_lengths_are_written_with_as_few_digits_as_there_can_be():
    text = "[4s] one\n# [1s]\n[2,5 sec] two\n[97 frames] three"
    assert move_cut(text, 16, 1, Fraction("3.3")) == (
        "[3.3s] one\n# [1s]\n[3.3 sec] two\n[97 frames] three"
    )
    assert move_cut(text, 16, 2, Fraction(8)) == (
        "[4s] one\n# [1s]\n[4 sec] two\n[72 frames] three"
    )


@pytest.mark.parametrize("empty", ["", " \n", "global: A city.", "# nothing yet"])
def test_a_first_shot_is_added_to_a_script_without_any(empty):
    (shot,) = ShotList.parse(add_shot(empty, 16), 16).shots
    assert shot == Shot(NEW_CAPTION, seconds=4)


@pytest.mark.parametrize("cut", [0, 2, -1])
def test_there_are_no_other_cuts(cut):
    with pytest.raises(ShotScriptError, match=f"cut {cut} is none of this script's 1 cuts"):
        move_cut("[4s] one\n[4s] two", 16, cut, Fraction(1))


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("[4s] one\n\n[4] two", 3, None),
        ("[4s] one\n[0s] two", 2, None),
        ("# c\nglobal:\n[4s] one", 2, None),
        ("[4s] one\nShot 2: two", 2, None),
        ('[{"caption": "a", "seconds": 4},\n {"caption": "b" "seconds": 4}]', 2, 18),
        ('[{"caption": "a", "seconds": 4},\n {"caption": "{[", "seconds": 0}]', 2, None),
        ('{"global": "a",\n"shots": [\n\n{"caption": "{["}]}', 4, None),
        ('{"shots": [{"caption": "a", "seconds": 4}, 5]}', None, None),
        ("", None, None),
    ],
)
def test_a_refusal_says_where(text, line, column):
    with pytest.raises(ShotScriptError) as refused:
        ShotList.parse(text, 16)
    assert (refused.value.line, refused.value.column) == (line, column)
