"""What counts as a caption, files beside a film, and turns on a clock."""

import json
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.data.pipeline.captions.answers import AnswerError, caption_in, shared_in, words_in
from moga.data.pipeline.captions.memory import Memory, Spent, question
from moga.data.pipeline.captions.pace import Pace, asked_to_wait
from moga.data.pipeline.captions.sidecars import (
    Passage,
    Sidecar,
    SidecarError,
    find_sidecar,
    read_sidecar,
)
from moga.data.pipeline.captions.stage import caption
from moga.data.pipeline.records import Boundary, Film, Shot, Source
from moga.data.pipeline.settings import Caption, Settings
from moga.shots import Shot as ScriptShot

# A white hare runs on the grass.
HARE = "\u4e00\u53ea\u767d\u8272\u7684\u5154\u5b50\u5728\u8349\u5730\u4e0a\u5954\u8dd1\u3002"
words = st.text(st.characters(codec="utf-8"), max_size=80)
pieces = st.sampled_from(
    ["a square ", "```", "json\n", "{", "}", '"', "<think>", "</think>", "[4s]", "Caption: ", "\n",
     '{"global": "a b c", "captions": ["d e f"]}', "null", "\ud800", "I'm sorry", "\u4e00\u53ea"]
)  # fmt: skip
answers = st.lists(pieces | words, max_size=8).map("".join)


@given(answer=answers, least=st.integers(0, 6), language=st.sampled_from(["en", "zh", ""]))
def test_an_answer_is_a_caption_that_a_row_may_hold_or_is_turned_down(answer, least, language):
    how = Caption(words_least=least, words_most=12, language=language)
    try:
        text = caption_in(answer, how)
    except AnswerError as error:
        assert str(error)
    else:
        assert ScriptShot(text, frames=1).caption == text and least <= words_in(text) <= 12
    try:
        shared = shared_in(answer, 1, how)
    except AnswerError:
        return
    for text in (shared.text, *shared.captions):
        assert ScriptShot(text, frames=1).caption == text and words_in(text) <= 12


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        ("A young woman in a red coat crosses a rainy street at night.", "en", None),
        ("Wide shot, Big Buck Bunny stretches in the tall grass.", "en", None),
        ("Close-up of Anna Karenina's eyes, bokeh, Kodak Portra 400.", "en", None),
        ("Un lapin blanc court dans la prairie verte sous le soleil.", "en", "fr"),
        ("Eine junge Frau in einem roten Mantel geht über die Straße.", "en", "de"),
        ("Eine junge Frau in einem roten Mantel geht über die Straße.", "de", None),
        (HARE, "en", "zh"),
        (HARE, "zh", None),
        ("A young woman in a red coat crosses a rainy street at night.", "zh", "en"),
        ("Un lapin blanc court dans la prairie verte sous le soleil.", "", None),
    ],
)  # fmt: skip
def test_the_language_of_a_caption(text, language, other):
    how = Caption(language=language)
    if other is None:
        assert caption_in(text, how) == text
    else:
        with pytest.raises(AnswerError, match=f"^it is written in {other} and should be in "):
            caption_in(text, how)


def test_words_are_counted_in_scripts_without_spaces():
    assert words_in("a b  c") == 3 and words_in("") == 0
    assert words_in("\u4e00\u53ea\u767d\u8272") == 2 and words_in("\u4e00\u53ea abc") == 2


# Files beside a film


def a_film(path, *edges, fps=10):
    edge = Boundary("cut", 0, 0)
    shots = [Shot(f"s{i}", "s", i, a, b, edge, edge) for i, (a, b) in enumerate(edges)]
    source = Source("s", str(path), path.name, 64, 64, Fraction(fps), edges[-1][1])
    return Film(source, tuple(shots))


SRT = """1
00:00:00,000 --> 00:00:01,900
<i>A square</i>
goes right.

2
00:00:02,100 --> 00:00:03,000
It turns.

3
00:00:03,000 --> 00:00:04,000
It goes back.
"""
VTT = "WEBVTT\n\n" + SRT.replace(",", ".")
JSON = {
    "global": "A square.",
    "shots": [
        {"start": 0, "caption": "It goes right."},
        {"start": 2, "end": 4, "caption": "Back."},
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "shared", "said"),
    [
        ("a.srt", SRT, "", ["A square goes right.", "It turns. It goes back."]),
        ("a.vtt", VTT, "", ["A square goes right.", "It turns. It goes back."]),
        ("a.json", json.dumps(JSON), "A square.", ["It goes right.", "Back."]),
        ("a.json", '{"global": "A square."}', "A square.", ["", ""]),
        ("a.txt", "\ufeffA square\r\nturns.\n", "A square turns.", ["", ""]),
        ("b.txt", "Of another film.", "", ["", ""]),
    ],
)
def test_a_file_beside_the_film(tmp_path, name, text, shared, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    film = a_film(tmp_path / "a.mp4", (0, 20), (20, 40))
    done = caption(film, Settings(caption=Caption(by="sidecar")), tmp_path)
    assert [shot.caption for shot in done.shots] == said
    assert [shot.caption_source for shot in done.shots] == [t and "sidecar" for t in said]
    (sample,) = done.samples
    assert sample.global_caption == shared and [shot.caption for shot in sample.shots] == said
    if name == "b.txt":
        assert "no file with captions" in done.shots[0].decisions[0].reason


def test_what_must_have_captions_and_has_none_is_dropped(tmp_path):
    film = a_film(tmp_path / "a.mp4", (0, 20), (20, 40))
    how = Settings(caption=Caption(by="sidecar", required=True))
    done = caption(film, how, tmp_path)
    assert not done.samples and not any(shot.kept for shot in done.shots)
    (tmp_path / "a.txt").write_text("A square.")
    assert len(caption(film, how, tmp_path).samples) == 1  # the text is for all of it
    (tmp_path / "a.json").write_text(json.dumps({"shots": [{"start": 2, "caption": "Back."}]}))
    assert find_sidecar(tmp_path / "a.mp4") == tmp_path / "a.json"  # the one that says more
    done = caption(film, how, tmp_path)
    assert [shot.kept for shot in done.shots] == [False, True]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json: it is not JSON; write {"),
        ("a.json", "[]", "a.json: it is of another form; write {"),
        ("a.json", '{"shots": [3]}', "a.json: it is of another form"),
        ("a.json", '{"shots": [{"caption": "a"}]}', "a.json: shot 1: start is null; give seconds"),
        ("a.json", '{"shots": [{"start": NaN, "caption": "a"}]}', "a.json: shot 1: start is nan"),
        ("a.json", '{"shots": [{"start": 0, "caption": 3}]}', "a.json: shot 1: 3 is no text"),
        ("a.json", '{"shots": [{"start": 1, "end": 1, "caption": "a"}]}', "a.json: shot 1 ends"),
        ("a.json", '{"shots": [{"start": 1, "caption": "a"}, {"start": 1, "caption": "b"}]}',
         "a.json: shot 2 starts at 1 s, not after the one before it."),
        ("a.srt", "nothing", "a.srt: it holds no subtitles"),
        ("a.txt", "A square [4s] turns.", "a.txt: caption: \"[4s]\" opens a shot"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SidecarError) as caught:
        read_sidecar(tmp_path / name)
    assert str(caught.value).startswith(message)


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("Straße".encode("latin-1"))
    with pytest.raises(SidecarError, match=r"^a\.txt is not UTF-8; save it as such\.$"):
        read_sidecar(tmp_path / "a.txt")


@given(
    edges=st.sets(st.integers(0, 400), min_size=2, max_size=8).map(sorted), shift=st.floats(0, 1)
)
def test_passages_of_the_very_shots_go_to_them(edges, shift):
    """However they are cut, and where each begins a little late."""
    edges = [n / 4 for n in edges]
    shots = list(pairwise(edges))
    late = [Passage(a + shift * (b - a) * 0.4, b, f"p{i}") for i, (a, b) in enumerate(shots)]
    sidecar = Sidecar("", tuple(late))
    assert [sidecar.between(a, b) for a, b in shots] == [f"p{i}" for i in range(len(shots))]


# Turns


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.time, self.lock = 0.0, threading.Lock()

    def now(self):
        with self.lock:
            return self.time

    def sleep(self, seconds):
        with self.lock:
            self.time += seconds


@given(per_minute=st.integers(0, 600), calls=st.integers(1, 50))
def test_calls_are_no_more_than_a_minute_allows(per_minute, calls):
    clock = Clock()
    pace, turns = Pace(per_minute, clock.now, clock.sleep), []
    for _ in range(calls):
        pace.wait()
        turns.append(clock.now())
    expected = [i * 60 / per_minute if per_minute else 0 for i in range(calls)]
    assert turns == pytest.approx(expected)


def test_a_server_that_asks_to_wait_holds_all():
    clock = Clock()
    pace = Pace(60, clock.now, clock.sleep)
    pace.wait()
    pace.hold(30)
    pace.wait()
    assert clock.now() == 30
    pace.hold(0.1)  # less than the distance to the next call anyway
    pace.wait()
    assert clock.now() == 31


@given(seconds=st.integers(0, 10**6))
def test_both_forms_of_retry_after(seconds):
    assert asked_to_wait(str(seconds)) == seconds
    when = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    assert asked_to_wait(format_datetime(when, usegmt=True)) == pytest.approx(seconds, abs=30)


@pytest.mark.parametrize("value", [None, "", "soon", "nan", "Wed, 99 Foo"])
def test_what_is_no_retry_after(value):
    assert asked_to_wait(value) is None


# Memory


def test_questions_differ_in_all_that_decides_their_answer():
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    other = frames.copy()
    other[1, 2, 3, 1] ^= 1
    known = [
        question("m", "p", frames), question("n", "p", frames), question("m", "q", frames),
        question("m", "p", other), question("m", "p", frames.reshape(2, 6, 4, 3)),
        question("m", "p", frames[:1]), question("m", "p"),
    ]  # fmt: skip
    assert len(set(known)) == len(known)
    assert question("m", "p", frames.copy(order="F")) == known[0]


def test_memory_counts_all_that_was_paid(tmp_path):
    memory = Memory(tmp_path)
    assert memory.recall("ab") is None and memory.spent() == Spent()
    memory.keep("ab", "one", Spent(1, 2, 3))
    memory.keep("ab", "two", Spent(1, 10, 10))
    memory.keep("cd", "three", Spent(1, 1, 1))
    assert memory.recall("ab").answer == "two"
    assert memory.spent() == Spent(3, 13, 14)
