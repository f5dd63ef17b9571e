"""Frames out of video files, against the frames that were put in."""

import itertools
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moga.video.reader import VideoReadError, read_frames

SIZE = {"width": 32, "height": 32}
COUNT, FPS = 50, 8


def read(video, **options):
    return np.concatenate(list(read_frames(video, **{"fps": FPS, **SIZE, **options})))


@pytest.fixture(scope="module")
def source():
    """Frames that all differ everywhere."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def video(make, source, tmp_path_factory):
    return make.lossless(tmp_path_factory.mktemp("video") / "a.mkv", source, FPS)


def test_what_went_in_comes_out(video, source):
    assert np.array_equal(read(video), source)


@settings(max_examples=15)
@given(start=st.integers(0, COUNT - 1), data=st.data())
def test_a_part_is_that_of_the_whole(video, source, start, data):
    frames = data.draw(st.integers(1, COUNT - start) | st.none())
    end = None if frames is None else start + frames
    assert np.array_equal(read(video, start=start / FPS, frames=frames), source[start:end])


def test_frames_come_a_few_at_a_time(video):
    sizes = [len(chunk) for chunk in read_frames(video, fps=FPS, **SIZE)]
    assert sum(sizes) == COUNT and max(sizes) <= 16


@pytest.mark.parametrize(("fps", "step"), [(4, 2), (2, 4)])
def test_a_lower_rate_takes_frames_at_even_distances(video, source, fps, step):
    found = read(video, fps=fps)
    numbers = [int(np.flatnonzero((source == frame).all((1, 2, 3)))[0]) for frame in found]
    assert abs(len(found) - COUNT / step) <= 1
    assert {b - a for a, b in itertools.pairwise(numbers)} == {step}


def test_a_higher_rate_repeats_frames(video, source):
    assert np.array_equal(read(video, fps=16), np.repeat(source, 2, 0))


def stripes(height, width, along):
    """Red, green and blue thirds, one after the other along an axis."""
    frame = np.zeros((1, height, width, 3), np.uint8)
    for colour, part in enumerate(np.array_split(frame[0], 3, along)):
        part[..., colour] = 255
    return frame


@pytest.mark.parametrize(("height", "width", "along"), [(32, 96, 1), (96, 32, 0), (66, 198, 1)])
def test_the_middle_is_kept(make, tmp_path, height, width, along):
    video = make.lossless(tmp_path / "a.mkv", stripes(height, width, along).repeat(3, 0))
    frame = read(video)[1].astype(int)
    inner = frame[3:-3, 3:-3]
    assert frame.shape == (32, 32, 3)
    assert (inner[..., 1] > 250).all() and (inner[..., [0, 2]] < 5).all()


def test_pixels_that_are_not_square(make, tmp_path):
    """32 x 32 pixels, each three times as wide as high, are shown like 96 x 32."""
    plain = make.lossless(tmp_path / "plain.mkv", stripes(32, 32, 1).repeat(3, 0))
    make.ffmpeg("-i", plain, "-c:v", "ffv1", "-vf", "setsar=3", tmp_path / "wide.mkv")
    inner = read(tmp_path / "wide.mkv")[1][:, 3:-3].astype(int)
    assert (inner[..., 1] > 250).all() and (inner[..., [0, 2]] < 5).all()


def test_colours_of_an_mp4_are_those_of_its_frames(make, tmp_path):
    colours = [(200, 30, 60), (20, 160, 40), (30, 60, 210), (128, 128, 128), (255, 255, 255)]
    frames = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    found = read(make.mp4(tmp_path / "a.mp4", frames.repeat(4, 0)))
    assert np.abs(found.astype(int) - frames.repeat(4, 0)).max() <= 4


def test_one_frame_too_few_is_made_up_for_and_two_are_not(video, source):
    found = read(video, start=(COUNT - 3) / FPS, frames=4)
    assert np.array_equal(found, source[[-3, -2, -1, -1]])
    with pytest.raises(VideoReadError, match=r"^a\.mkv cannot be read .*it ended after 3 frames"):
        read(video, start=(COUNT - 3) / FPS, frames=5)
    with pytest.raises(VideoReadError, match="it ended after 0 frames"):
        read(video, start=COUNT / FPS, frames=1)


@pytest.mark.parametrize("frames", [None, 5])
def test_ffmpegs_words_are_told(tmp_path, frames):
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    message = r"^junk\.mp4 cannot be read to its end \(moov atom not found\); replace it\.$"
    with pytest.raises(VideoReadError, match=message):
        read(tmp_path / "junk.mp4", frames=frames)


def test_a_name_that_looks_like_an_option_or_an_address(make, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-y.mkv", "http:a.mkv", "100%d.mkv", "a 'b'.mkv"):
        make.lossless(tmp_path / name, source[:3])
        assert np.array_equal(read(Path(name)), source[:3])


def test_no_process_outlives_its_reader(video):
    here = psutil.Process()
    before = here.children(recursive=True)
    frames = read_frames(video, fps=1000, **SIZE)
    next(frames)
    assert len(here.children(recursive=True)) == len(before) + 1
    frames.close()
    assert here.children(recursive=True) == before
