"""Parts of videos, told by the numbers that their pictures bear."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import HEIGHT, WIDTH, numbered, numbers

from moga.video.excerpt import Excerpt
from moga.video.reader import read_frames

SIZE = {"width": WIDTH, "height": HEIGHT}
COUNT = 600
CODED = {
    "open_gop.mp4": ("-c:v", "libx264", "-bf", "3", "-g", "120", "-x264-params", "open-gop=1"),
    "hevc.mkv": ("-c:v", "libx265", "-g", "90", "-x265-params", "log-level=error:open-gop=1"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-g", "100"),
    "old.avi": ("-c:v", "mpeg4", "-bf", "2", "-g", "100", "-q:v", "2"),
    "stream.ts": ("-c:v", "libx264", "-bf", "2", "-g", "120"),
    "dvd.mpg": ("-c:v", "mpeg2video", "-bf", "2", "-g", "15", "-q:v", "2"),
}
RATES = {"old.avi": 25, "stream.ts": 25, "dvd.mpg": 25}  # 24000/1001 elsewhere


def fps_of(name):
    return RATES.get(name, 23.976)


@pytest.fixture(scope="module")
def films(make, tmp_path_factory):
    """One film in every container, with sound that begins before the pictures or after."""
    folder = tmp_path_factory.mktemp("films")
    sound = ("-f", "lavfi", "-i", "sine=duration=30")
    for name, coded in CODED.items():
        source = make.lossless(folder / f"{name}.mkv", numbered(COUNT), fps_of(name))
        coded = ("-pix_fmt", "yuv420p", "-fps_mode", "passthrough", *coded)
        make.ffmpeg("-itsoffset", "0.3", "-i", source, *sound, "-shortest", *coded, folder / name)
    make.ffmpeg("-ss", "2.1", "-i", folder / "open_gop.mp4", "-c", "copy", folder / "edited.mp4")
    return folder


@st.composite
def parts(draw):
    """Spans in frames, ascending, with gaps or none."""
    edges = sorted(draw(st.sets(st.integers(0, COUNT - 60), min_size=2, max_size=6)))
    return list(zip(edges[::2], edges[1::2], strict=False))


def seconds(spans, fps):
    rate = 24000 / 1001 if fps == 23.976 else fps
    return Excerpt(tuple((a / rate, b / rate) for a, b in spans))


@pytest.mark.parametrize("name", [*CODED, "edited.mp4"])
@settings(max_examples=6)
@given(spans=parts(), data=st.data())
def test_no_frame_is_lost_or_doubled(films, name, spans, data):
    fps, excerpt = fps_of(name), seconds(spans, fps_of(name))
    whole = numbers(np.concatenate(list(read_frames(films / name, fps=fps, **SIZE))))
    origin = whole[0]
    assert origin == 0 or name == "edited.mp4"
    wanted = [origin + n for a, b in spans for n in range(a, b)]
    assert excerpt.frames(fps) == len(wanted)
    first = data.draw(st.integers(0, len(wanted) - 1))
    count = data.draw(st.integers(1, len(wanted) - first) | st.none())
    end = None if count is None else first + count
    found = read_frames(
        films / name, fps=fps, **SIZE, start=first / fps, frames=count, excerpt=excerpt
    )
    assert numbers(np.concatenate(list(found))) == wanted[first:end]


@pytest.mark.parametrize("name", ["slides.mp4", "slides.mkv"])
def test_a_picture_that_began_long_before_is_still_shown(make, tmp_path, name):
    """As in recordings of a screen, where nothing moves for seconds."""
    plain = make.lossless(tmp_path / "plain.mkv", numbered(4), 0.2)
    coded = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-fps_mode", "passthrough")
    make.ffmpeg("-i", plain, *coded, tmp_path / name)
    for start in (3, 8, 12, 18):
        excerpt = Excerpt(((start, start + 1),))
        found = read_frames(tmp_path / name, fps=8, **SIZE, excerpt=excerpt)
        assert set(numbers(np.concatenate(list(found)))) == {start // 5}
