"""Scores of pictures, and text that stays, on real films with known borders, texts and blur."""

import numpy as np
import pytest
from accuracy import source_of
from hypothesis import given
from hypothesis import strategies as st
from joined import PIECES, filmed, join, real

from moga.data.pipeline.crop import crop
from moga.data.pipeline.decode import sampled
from moga.data.pipeline.measures import Borders, borders, clarity, even_frames, grey, summary
from moga.data.pipeline.probe import probe
from moga.data.pipeline.records import Box, Film, Text
from moga.data.pipeline.score import score
from moga.data.pipeline.settings import Settings, TextBoxes
from moga.data.pipeline.split import split
from moga.data.pipeline.text import lasting_edges, persistent


def picture(name, frame, *filters):
    return grey(sampled(source_of(real(name)), [frame]))[0]


@pytest.mark.parametrize(("name", "frame"), [("bunny", 20), ("bunny", 100), ("bikes", 160)])
def test_clarity_is_the_same_at_any_size_and_contrast_and_falls_with_blur(name, frame):
    import cv2

    plain = picture(name, frame)
    high, wide = plain.shape
    own = clarity(plain)
    for height in (1080, 720, 480, 360):
        if height <= high * 2:
            size = (wide * height // high, height)
            scaled = cv2.resize(plain, size, interpolation=cv2.INTER_AREA)
            assert clarity(scaled) == pytest.approx(own, abs=0.04)
    assert clarity((plain // 2 + 40).astype(np.uint8)) == pytest.approx(own, abs=0.06)
    size = (wide * 480 // high, 480)
    blurred = [clarity(cv2.GaussianBlur(cv2.resize(plain, size), (0, 0), s)) for s in (1, 2, 4)]
    assert own > blurred[0] > blurred[1] > blurred[2] and blurred[2] < 0.25
    assert clarity(np.full((90, 160), 128, np.uint8)) == 0


@given(
    sides=st.tuples(*[st.integers(0, 12)] * 4),
    size=st.tuples(st.integers(48, 80), st.integers(48, 80)),
    noise=st.integers(0, 12),
)
def test_borders_are_found_to_the_pixel(sides, size, noise):
    left, top, right, bottom = sides
    width, height = size
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, noise + 1, (2, height, width)).astype(np.uint8)
    inside = rng.integers(60, 200, (2, height - top - bottom, width - left - right))
    pictures[:, top : height - bottom, left : width - right] = inside
    assert borders(pictures, 24) == Borders(left, top, right, bottom)


def test_a_dark_picture_has_no_borders():
    night = np.zeros((2, 90, 160), np.uint8)
    assert borders(night, 24) == Borders()
    night[:, 40:46, 70:80] = 200  # a lamp
    assert borders(night, 24) == Borders()
    assert summary(night, 24)["dark"] > 0.9


@given(st.integers(0, 500), st.integers(1, 400), st.integers(1, 20))
def test_sampled_frames_are_inside_and_spread(first, length, count):
    frames = even_frames(first, first + length, count)
    assert frames == sorted(set(frames)) and len(frames) == min(count, len(frames))
    assert all(first <= frame < first + length for frame in frames)
    if count <= length:
        assert len(frames) == count
        gaps = np.diff([first, *frames, first + length])
        assert gaps.max() <= length / count + 1


WHERE = {
    "subtitle": "drawtext=text='Where are you going':fontsize=20:fontcolor=white:borderw=2:"
    "x=(w-tw)/2:y=h-34",
    "watermark": "drawtext=text='PREVIEW':fontsize=22:fontcolor=white@0.9:x=w-tw-14:y=12",
    "letterbox": "crop=640:268,pad=640:360:0:46",
}


def cropped(path, *words):
    settings = Settings(split={"learned": "never"}, text={"when": words[0] if words else "always"})
    film = probe(Film(source_of(path)), settings)
    return crop(score(split(film, settings), settings), settings)


@pytest.mark.parametrize("what", WHERE)
def test_what_lies_over_the_picture_is_cropped_away(tmp_path, what):
    join(tmp_path / "a.mp4", PIECES[:1], [], extra=(WHERE[what],))
    (shot,) = cropped(tmp_path / "a.mp4").shots
    used = shot.crop
    assert shot.kept and used is not None
    assert used.width / used.height == pytest.approx(16 / 9, abs=0.01)
    if what == "letterbox":
        assert shot.texts == () and (used.y, used.height) == (46, 268)
        return
    (text,) = shot.texts
    assert text.share == 1
    if what == "subtitle":  # letters are drawn in rows 326 to 346
        assert 300 < text.box.y < 327 and text.box.y + text.box.height > 343
        assert used.y == 0 and 300 < used.height <= text.box.y
    else:
        assert text.box.x > 480 and text.box.y + text.box.height < 50
        assert used.y >= text.box.y + text.box.height or used.x + used.width <= text.box.x


def test_in_doubt_text_is_read_and_where_all_moves_it_is_not(tmp_path):
    join(tmp_path / "text.mp4", PIECES[3:4], [], extra=(WHERE["subtitle"],))
    join(tmp_path / "clean.mp4", PIECES[3:4], [])
    (with_text,) = cropped(tmp_path / "text.mp4", "doubt").shots
    (clean,) = cropped(tmp_path / "clean.mp4", "doubt").shots
    assert with_text.scores["text_read"] == 1 and with_text.texts
    assert clean.scores["text_read"] == 0 and clean.texts == () and clean.crop is None
    pictures = grey(sampled(source_of(tmp_path / "clean.mp4"), [5, 29, 50]))
    assert lasting_edges(pictures) < lasting_edges(pictures[:1])


def test_a_still_shot_is_marked_and_dropped_on_request(tmp_path):
    filmed(tmp_path / "still.mp4", "bunny", "trim=end_frame=1,loop=60:1,setpts=N/25/TB")
    (shot,) = cropped(tmp_path / "still.mp4", "never").shots
    assert shot.kept and shot.scores["still"] == 1
    settings = Settings(split={"learned": "never"}, text={"when": "never"},
                        score={"drop_still": True})  # fmt: skip
    film = split(Film(source_of(tmp_path / "still.mp4")), settings)
    (shot,) = score(film, settings).shots
    assert not shot.kept and "is still" in next(d for d in shot.decisions if not d.kept).reason
    (moving,) = score(split(Film(source_of(real("bunny"))), settings), settings).shots
    assert moving.kept and moving.scores["still"] == 0


def text(x, y, width, height=10):
    return Text(Box(x, y, width, height), 1.0, 0.9)


def test_text_persists_where_it_is_in_enough_frames():
    settings = TextBoxes()
    words = [[text(100, 200, 80)], [text(90, 201, 110)], [text(120, 199, 30)]]
    (found,) = persistent(words, settings, (320, 240))
    assert (found.share, found.box) == (1, Box(90, 199, 110, 12))
    assert persistent([words[0], [], []], settings, (320, 240)) == ()
    assert len(persistent([[text(0, 0, 30), text(200, 100, 30)]] * 2, settings, (320, 240))) == 2
    assert persistent([[], [], []], settings, (320, 240)) == ()


def test_a_predictor_of_ones_own_rates_films_and_shots(tmp_path):
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3)) * 10

    torch.jit.script(Brightness()).save(str(tmp_path / "own.pt"))
    own = {"aesthetic": tmp_path / "own.pt", "aesthetic_least": 9}
    film = probe(Film(source_of(real("bikes"))), Settings(probe=own))
    mean = film.source.scores["aesthetic"]
    assert 1 < mean < 9 and not film.source.kept
    assert film.source.decisions[-1].reason == f"is rated {mean:.2f}, less than 9"
    from moga.data.pipeline.aesthetic import PredictorError

    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "wrong.pt"))
    with pytest.raises(PredictorError, match="is no predictor that can be used"):
        probe(Film(source_of(real("bikes"))), Settings(probe={"aesthetic": tmp_path / "wrong.pt"}))
