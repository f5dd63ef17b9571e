"""Shot lists: from text and JSON and back, snapped to the latent grid, and drawn."""

from __future__ import annotations

import copy
import json
import pickle
import re
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moga.shots import Shot, ShotList, ShotScriptError
from moga.shots.durations import find_duration

# Text that the syntax could mistake for its own, among text of every kind.
# fmt: off
TRAPS = st.sampled_from([
    "global:", "GLOBAL : a", "# a", "#", "#neon", "[4s]", "[2.5f] a", "[4]", "[-1s]", "[wide]",
    "[{", '{"a', "{a|b}", "(rain:1.2)", "embedding:x", "style: noir", "\\(", "\\n", '"', "NaN",
    "\n", "\r", "\r\n", "\t", "  ", "\u2028", "\x85", "\xa0", "\x1c", "\ufeff",
    "\u4f60\u597d", "\U0001f642",
])
# fmt: on
JUNK = st.lists(TRAPS | st.text(max_size=8), max_size=8).map("".join)
TEXTS = JUNK.filter(lambda text: not find_duration(text))
CAPTIONS = TEXTS.filter(lambda text: bool(text.strip()))

SECONDS = st.decimals(min_value="0.001", max_value=600, places=3).map(Fraction)
FRAMES = st.integers(1, 2000)
SHOTS = st.builds(Shot, CAPTIONS, seconds=SECONDS) | st.builds(Shot, CAPTIONS, frames=FRAMES)
FPS = st.sampled_from([8, 12.5, 16, 23.976, "24000/1001", "24", Fraction(30000, 1001), 60])
SHOT_LISTS = st.builds(ShotList, st.lists(SHOTS, min_size=1, max_size=12), FPS, TEXTS, TEXTS)


# --- round trips ---------------------------------------------------------------------------------


@given(SHOT_LISTS)
def test_text_form_round_trip(shots):
    assert ShotList.parse(shots.to_text(), shots.fps) == shots


@given(SHOT_LISTS)
def test_json_form_round_trip(shots):
    assert ShotList.parse(shots.to_json(), shots.fps) == shots


@given(SHOT_LISTS)
def test_json_form_is_plain_json(shots):
    data = json.loads(shots.to_json())
    assert [shot["caption"] for shot in data["shots"]] == [shot.caption for shot in shots.shots]
    assert data.get("global", "") == shots.global_caption
    assert data.get("negative", "") == shots.negative


LINES = JUNK | st.sampled_from(["global: g", "[4s] a", "[ .5 SEC ]a", "[97 frames] b", "# c", ""])
OPENINGS = st.sampled_from(["", "[4s] a\n", "global: a\n[1f]", "global: "])
SCRIPTS = st.builds(str.__add__, OPENINGS, st.lists(LINES).map("\n".join))


@given(SCRIPTS | JUNK | JUNK.map('{"shots": [{"caption": '.__add__) | JUNK.map("[{".__add__))
@example('[{"a": ' * 100_000)
@example('{"shots":' + "[" * 100_000)
@example(f"[{'9' * 10_000}s] a")
@example(f"[0.{'0' * 10_000}1s] a")
@example('[{"caption": "a", "seconds": 1e-999999999}]')
@example('[{"caption": "a", "seconds": 99e99999999999999999999}]')
@example("[4s" + " " * 100_000)
@example("[4s] a\n" + "*" * 100_000 + "negative")
@example("[4s] a\nsize" + "'" * 100_000 + "x")
@example("[4s] a\n4s" + " " * 100_000 + "x")
@example("[4s] a\ud800")
def test_any_text_parses_or_is_refused_in_words(text):
    try:
        shots = ShotList.parse(text, 16)
    except ShotScriptError as error:
        assert re.fullmatch(r"[^\n]+[.?]|script has no shots; .+", str(error))
        assert len(str(error)) < 250
        str(error).encode()
    else:
        assert ShotList.parse(shots.to_text(), 16) == shots
        assert ShotList.parse(shots.to_json(), 16) == shots


@given(SHOT_LISTS)
def test_is_plain_data(shots):
    twin = copy.deepcopy(shots)
    assert twin == shots == pickle.loads(pickle.dumps(shots))
    assert hash(twin) == hash(shots)
    assert shots != ShotList(shots.shots, shots.fps + 1, shots.global_caption, shots.negative)
    assert shots != shots.to_text()


@given(CAPTIONS)
def test_only_line_breaks_change_a_caption(text):
    caption = Shot(text, frames=1).caption
    assert caption.split() == text.split()
    if not re.search(r"[\r\n]", text):
        assert caption == text.strip()


# --- snapping ------------------------------------------------------------------------------------


@given(SHOT_LISTS)
def test_snapping(shots):
    """4n + 1 frames, then 4n each; nearest to what was asked; no shot without latents."""
    assert shots.frames == 4 * (shots.latent_frames - 1) + 1 == sum(shots.frame_counts)
    assert shots.latent_starts == (0, *accumulate(shots.latent_counts))[:-1]
    assert shots.frame_starts == (0, *accumulate(shots.frame_counts))[:-1]
    assert list(shots.latent_starts) == sorted(set(shots.latent_starts))
    for i, (shot, made) in enumerate(zip(shots.shots, shots.frame_counts, strict=True)):
        wanted = shot.frames if shot.frames is not None else shot.seconds * shots.fps
        least = 4 if i else 1
        assert made >= least and made % 4 == least % 4
        assert -2 < made - wanted <= 2 or (made == least and wanted < least)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_frames_on_the_grid_are_kept(latents):
    frames = [4 * latents[0] - 3, *(4 * n for n in latents[1:])]
    shots = ShotList(tuple(Shot("a", frames=n) for n in frames), 24)
    assert shots.frame_counts == tuple(frames)
    assert shots.latent_counts == tuple(latents)


@pytest.mark.parametrize(
    ("asked", "first", "later"),
    [
        ("1f", 1, 4),
        ("2f", 1, 4),
        ("3f", 5, 4),  # halfway between 1 and 5: the longer
        ("4f", 5, 4),
        ("6f", 5, 8),  # halfway between 4 and 8: the longer
        ("7f", 9, 8),
        ("0.001s", 1, 4),
        ("4s", 65, 64),
        ("30s", 481, 480),
    ],
)
def test_snapped_lengths(asked, first, later):
    assert ShotList.parse(f"[{asked}] a\n[{asked}] b", 16).frame_counts == (first, later)


@pytest.mark.parametrize("given_fps", [23.976, "23.976", Fraction("23.976"), Decimal("23.976")])
def test_fps_is_exact(given_fps):
    assert ShotList.parse("[1s] a", given_fps).fps == Fraction(23976, 1000)


@pytest.mark.parametrize("seconds", [0.1, Decimal("0.1"), Fraction(1, 10)])
def test_seconds_are_exact(seconds):
    assert Shot("a", seconds=seconds).seconds == Fraction(1, 10)


# --- the picture; more in test_timeline.py --------------------------------------------------------


@given(TEXTS, st.integers(320, 400))
def test_timeline_draws_any_caption(caption, width):
    pytest.importorskip("PIL")
    from moga.pictures.timeline import draw_timeline

    shots = ShotList((Shot("x" + caption, seconds=4), Shot("[" + caption, frames=3)), 16)
    assert draw_timeline(shots, width).width == width
