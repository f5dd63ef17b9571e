"""Rows: what is read of them, what is refused, and where cuts go on the latent grid."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.data.rows import (
    Row,
    RowsError,
    RowShot,
    examine,
    latent_starts,
    nearest_latent,
    read_rows,
)
from moga.shots import Shot, ShotList
from moga.video.excerpt import Excerpt
from moga.video.reader import read_frames
from moga.wan import latent_frames

SHOT = {"start": 0, "caption": "a"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with files that have the names of videos."""
    folder = tmp_path_factory.mktemp("rows")
    for name in ("a.mp4", "b.mp4"):
        (folder / name).touch()
    return folder


def write(folder, *rows):
    path = folder / "rows.jsonl"
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"\n".join(lines))
    return path


# Snapping


def begins(latent):
    """The first video frame of a latent frame."""
    return max(0, 4 * latent - 3)


def brute_force(frame, latent_frames=200):
    """Of two equally near, the later."""
    return min(range(latent_frames), key=lambda f: (abs(begins(f) - frame), -f))


@given(frame=st.integers(0, 700))
def test_a_cut_goes_to_the_nearest_latent_frame(frame):
    assert nearest_latent(frame) == brute_force(frame)


@given(frames=st.integers(1, 700))
def test_latent_frames_are_those_that_begin_and_end_in_the_video(frames):
    count = latent_frames(frames)
    assert begins(count - 1) + (4 if count > 1 else 1) <= frames < begins(count) + 4


seconds = st.floats(0.01, 20, allow_nan=False)


@given(
    later=st.sets(seconds, max_size=5),
    fps=st.sampled_from([8, 16, 23.976, 30]),
    latent_frames=st.integers(1, 120),
)
def test_every_shot_has_latent_frames_of_its_own_or_is_named(later, fps, latent_frames):
    starts = [0.0, *sorted(later)]
    nearest = [brute_force(round(start * fps)) for start in starts]
    short = [n for n, (a, b) in enumerate(pairwise([*nearest, latent_frames]), 1) if b <= a]
    if short:
        with pytest.raises(ValueError, match=rf"^shot {short[0]} is shorter than one latent"):
            latent_starts(starts, fps, latent_frames)
    else:
        assert latent_starts(starts, fps, latent_frames) == tuple(nearest)


# Reading

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), min_size=1)
# A caption may not hold what opens a shot in a script, such as "[0s]".
captions = st.lists(words, min_size=1, max_size=3).map(" ".join).filter(
    lambda text: not set(text) & set("[\uff3b\u3010")
)  # fmt: skip


@st.composite
def row(draw):
    """A row as it is written, and its shots."""
    later = draw(st.sets(st.integers(1, 1000), max_size=4))
    said = captions | st.just("")  # written as null
    shots = [RowShot(start / 8, draw(said)) for start in [0, *sorted(later)]]
    written = {"shots": [{"start": shot.start, "caption": shot.caption or None} for shot in shots]}
    written["video"] = draw(st.sampled_from(["a.mp4", "b.mp4"]))
    if draw(st.booleans()):
        written["global"] = draw(captions | st.just(""))
    if draw(st.booleans()):
        edges = sorted(draw(st.sets(st.integers(0, 999), min_size=2, max_size=6)))
        written["spans"] = [[a / 7, b / 7] for a, b in zip(edges[::2], edges[1::2], strict=False)]
    if draw(st.booleans()):
        written["crop"] = draw(st.tuples(*[st.integers(2, 999)] * 4).map(list))
    return written, shots


@given(rows=st.lists(row(), min_size=1, max_size=4), blank=st.sampled_from([b"", b" \r"]))
def test_rows_round_trip(folder, rows, blank):
    lines = [line for written, _ in rows for line in (written, blank)]
    expected = [
        Row(
            *(2 * i + 1, folder / written["video"], written.get("global", ""), tuple(shots)),
            Excerpt(
                tuple(map(tuple, written.get("spans", ()))),
                tuple(written["crop"]) if "crop" in written else None,
            ),
        )
        for i, (written, shots) in enumerate(rows)
    ]
    assert read_rows(write(folder, *lines)) == expected


@pytest.mark.parametrize("text", [b"", b"\n \r\n"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    with pytest.raises(RowsError, match=r"rows.jsonl holds no clips; write a line"):
        read_rows(write(tmp_path, text))


@given(row=row())
def test_texts_are_those_of_a_shot_list(folder, row):
    written, shots = row
    (found,) = read_rows(write(folder, written))
    shared = written.get("global", "")
    listed = ShotList(tuple(Shot(shot.caption or "none", frames=4) for shot in shots), 16, shared)
    assert found.texts == tuple(
        text if shot.caption else shared for text, shot in zip(listed.texts, shots, strict=True)
    )


def test_a_path_is_absolute_or_relative_to_the_file(folder, tmp_path):
    path = write(tmp_path, {"video": str(folder / "a.mp4"), "shots": [SHOT]})
    assert read_rows(path)[0].video == folder / "a.mp4"


def test_a_byte_order_mark_is_no_part_of_the_first_row(folder):
    path = write(folder, b"\xef\xbb\xbf" + json.dumps({"video": "a.mp4", "shots": [SHOT]}).encode())
    assert len(read_rows(path)) == 1


def shots(*starts):
    return [{"start": start, "caption": "a"} for start in starts]


WRONG = {
    b"{'video'": "is not JSON",
    b"[" * 100_000: "is nested too deeply",
    b'"\xff"': "is not UTF-8",
    b"[]": "the row is a list; write an object with video, global, shots",
    json.dumps({"video": "a.mp4"}).encode(): "the row has no 'shots'; add it",
    json.dumps({"shots": [SHOT]}).encode(): "the row has no 'video'; add it",
    **{
        json.dumps({"video": "a.mp4", "shots": [SHOT], **wrong}).encode(): message
        for wrong, message in (
            ({"vidoe": "a.mp4"}, "the row has the key \"vidoe\"; did you mean 'video'?"),
            (
                {"fps": 16},
                'the row has the key "fps"; known are video, global, shots, spans',
            ),
            ({"video": 3}, "video is 3; give a path in quotes"),
            ({"video": "c.mp4"}, 'video is "c.mp4", which is not there'),
            ({"video": ""}, 'video is "", which is not there'),
            ({"global": 3}, "global caption is 3; give a text"),
            ({"shots": []}, "shots is a list; give a list of at least one shot"),
            ({"shots": {}}, "shots is a dict; give a list"),
            ({"shots": ["a"]}, 'shot 1 is "a"; write an object with start, caption'),
            ({"shots": [{"start": 0}]}, "shot 1 has no 'caption'"),
            ({"shots": [{"start": 0, "text": "a"}]}, 'shot 1 has the key "text"; known are start'),
            ({"shots": [SHOT, {"start": 1, "caption": " "}]}, "shot 2: caption is empty"),
            ({"shots": [{"start": 0, "caption": "\ud800"}]}, "shot 1: caption holds half a charac"),
            ({"shots": shots(1)}, "shot 1 starts at 1 s; let the first shot start at 0"),
            ({"shots": shots(0, 2, 2)}, "shot 3 starts at 2 s, not after shot 2 at 2 s"),
            ({"shots": shots(0, 2, 1)}, "shot 3 starts at 1 s, not after shot 2 at 2 s"),
            ({"shots": shots(0, -1)}, "shot 2: start is -1; give seconds from 0 on"),
            ({"shots": shots(0, float("nan"))}, "shot 2: start is nan; give seconds"),
            ({"shots": shots(0, float("inf"))}, "shot 2: start is inf; give seconds"),
            ({"shots": shots(0, 10**400)}, "shot 2: start is 1"),
            ({"shots": shots(0, "1")}, 'shot 2: start is "1"; give seconds'),
            ({"shots": shots(0, True)}, "shot 2: start is true; give seconds"),
            ({"spans": []}, "spans is a list; give a list such as [[12, 15.5], [16, 20]]"),
            ({"spans": [[1, 2], 3]}, "spans is a list; give a list such as"),
            ({"spans": [[1, float("nan")]]}, "spans is a list; give a list such as"),
            (
                {"spans": [[1, 2], [1.5, 3]]},
                "span 2 goes from 1.5 to 3 s; start it at 2 s or",
            ),
            ({"spans": [[2, 2]]}, "span 1 goes from 2 to 2 s; end it after it starts."),
            ({"crop": [0, 0, 8]}, "crop is a list; give four whole numbers, [x, y, wid"),
            ({"crop": [0, 0, 8.5, 8]}, "crop is a list; give four whole numbers"),
            ({"crop": [-2, 0, 8, 8]}, "crop is [-2, 0, 8, 8]; give four whole numbers"),
        )
    },
}


@given(order=st.permutations([*WRONG, *[b""] * 8]), good=st.integers(1, 8))
def test_all_wrong_rows_are_listed_together(folder, order, good):
    right = json.dumps({"video": "a.mp4", "global": "", "shots": shots(0, 1)}).encode()
    lines = [right if line == b"" else line for line in order]
    with pytest.raises(RowsError) as caught:
        read_rows(write(folder, *lines))
    told = str(caught.value).split("\n")
    wrong = [(number, line) for number, line in enumerate(lines, 1) if line != right]
    assert len(told) == len(wrong)
    for message, (number, line) in zip(told, wrong, strict=True):
        assert message.startswith(f"rows.jsonl, line {number}: {WRONG[line]}"), message
        assert message[-1] in ".?" and not message.endswith("..")


def test_of_more_than_fifty_the_first_fifty_are_listed_and_the_rest_counted(folder):
    with pytest.raises(RowsError) as caught:
        read_rows(write(folder, *["x"] * 57))
    told = str(caught.value).split("\n")
    assert [re.search(r"line (\d+)", message)[1] for message in told[:-1]] == [
        str(number) for number in range(1, 51)
    ]
    assert told[-1] == "... and 7 more."


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RowsError, match=r"nothing\.jsonl cannot be read .* check the path"):
        read_rows(tmp_path / "nothing.jsonl")


# Videos


def a_row(video, *starts, line=1):
    return Row(line, Path(video), "", tuple(RowShot(start, "a") for start in starts or (0,)))


@pytest.fixture(scope="module")
def clips(make, tmp_path_factory):
    """Videos of all kinds, from wherever people have them."""
    folder = tmp_path_factory.mktemp("clips")
    make.mp4(folder / "ntsc.mp4", make.square(67), 29.97)
    source = ("-f", "lavfi", "-i", "testsrc=size=32x32:rate=25:duration=3")
    sound = ("-f", "lavfi", "-i", "sine=duration=4")
    uneven = ("-vf", "select='not(mod(n,3))+gt(n,40)'", "-fps_mode", "vfr")
    coded = ("-c:v", "libx264", "-bf", "2")
    make.ffmpeg(*source, *sound, *coded, folder / "sound.mp4")
    make.ffmpeg(*source, *uneven, *coded, folder / "uneven.mp4")
    make.ffmpeg(*source, *coded, "-f", "h264", folder / "bare.h264")
    make.ffmpeg(*source, "-c:v", "mpeg4", "-bf", "2", folder / "old.avi")
    make.ffmpeg(*source, "-c:v", "libvpx", folder / "web.webm")
    make.ffmpeg("-ss", "1.03", "-i", folder / "sound.mp4", "-c", "copy", folder / "trimmed.mp4")
    whole = (folder / "sound.mp4").read_bytes()
    make.ffmpeg("-i", folder / "sound.mp4", "-c", "copy", folder / "stream.ts")
    (folder / "cut.ts").write_bytes((folder / "stream.ts").read_bytes()[: len(whole) // 2])
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fps", [8, 16, 23.976, 30])
def test_frames_are_counted_as_decoding_counts_them(clips, fps):
    assert len(clips) == 9
    for video, examined in zip(clips, examine([a_row(v) for v in clips], fps=fps), strict=True):
        decoded = sum(map(len, read_frames(video, fps=fps, width=32, height=32)))
        assert abs(examined.frames - decoded) <= 1 and decoded > fps, video.name


def test_frames_are_exact_where_the_rate_is(make, tmp_path):
    for frames in range(1, 20):
        video = make.mp4(tmp_path / f"{frames}.mp4", make.square(frames), 16)
        assert examine([a_row(video)], fps=16)[0].frames == frames


def test_all_unusable_videos_are_listed_together(make, tmp_path):
    good = make.mp4(tmp_path / "good.mp4", make.square(17), 8)
    flash = make.mp4(tmp_path / "flash.mp4", make.square(1), 60)
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "empty.mp4").touch()
    make.ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.m4a")
    rows = [
        a_row(good, 0, 1),
        a_row(tmp_path / "junk.mp4"),
        a_row(good, 0, 1, 9),
        a_row(good, 0, 0.5, 0.6),
        a_row(good, 0, 2.1),
        a_row(flash),
        a_row(tmp_path / "empty.mp4"),
        a_row(tmp_path / "sound.m4a"),
        a_row(good, 0),
    ]
    rows = [Row(line, r.video, r.global_text, r.shots) for line, r in enumerate(rows, 1)]
    with pytest.raises(RowsError) as caught:
        examine(rows, fps=8)
    expected = [
        "line 2, junk.mp4: ffmpeg cannot read it (moov atom not found); replace",
        "line 3, good.mp4: shot 3 starts at 9 s, and the video ends at 2.12 s; move",
        "line 4, good.mp4: shot 2 is shorter than one latent frame; let it take at least 0.50 s",
        "line 5, good.mp4: shot 2 is shorter than one latent frame",
        "line 6, flash.mp4: it lasts 0.02 s, less than a frame at 8 fps; use a longer",
        "line 7, empty.mp4: ffmpeg cannot read it (",
        "line 8, sound.m4a: ffmpeg cannot read it (",
    ]
    for message, start in zip(str(caught.value).split("\n"), expected, strict=True):
        assert message.startswith(start) and message.endswith("."), message
    assert [e.row.line for e in examine([rows[0], rows[0], rows[8]], fps=8)] == [1, 1, 9]


def test_excerpts_that_their_video_has_not_are_listed_together(make, tmp_path):
    good = make.mp4(tmp_path / "good.mp4", make.square(17), 8)
    parts = {
        Excerpt(((0.5, 1.5),), (0, 0, 32, 32)): None,
        Excerpt(((0, 1), (1, 2.2))): None,  # containers round
        Excerpt(((0, 1), (1, 3))): "span 2 ends at 3 s, and the video at 2.12 s; end it before",
        Excerpt(((0, 1), (1, 1.01))): "span 2 lasts 0.01 s, less than a frame at 8 fps; take it",
        Excerpt((), (4, 0, 30, 32)): "crop is [4, 0, 30, 32], which reaches to 34 x 32, and the",
        Excerpt(((0, 0.5),)): "shot 2 starts at 1 s, and the video ends at 0.50 s; move",
    }
    shots = (RowShot(0, "a"), RowShot(1, "b"))
    rows = [
        Row(line, good, "", shots if "shot" in (said or "") else shots[:1], part)
        for line, (part, said) in enumerate(parts.items(), start=1)
    ]
    with pytest.raises(RowsError) as caught:
        examine(rows, fps=8)
    told = str(caught.value).split("\n")
    expected = [f"line {n}, good.mp4: {said}" for n, said in enumerate(parts.values(), 1) if said]
    assert [
        message[: len(start)] for message, start in zip(told, expected, strict=True)
    ] == expected
    assert [one.frames for one in examine(rows[:2], fps=8)] == [8, 18]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 10**6])
def test_an_impossible_rate(fps):
    with pytest.raises(ValueError, match=r"^fps is .* choose a rate above 0"):
        examine([], fps=fps)
