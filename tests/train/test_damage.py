"""Damaged clips: what changes the pictures is found, what does not refuses no clip.

No decoder notices all damage, as pictures carry no checksums: one in ten single flipped bytes of
H.264 passes, and more than half of HEVC's, however many they are. So bytes are flipped in numbers,
and in codecs that notice.
"""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_runs import refused, train

from moga.video.complaints import complaints, decode_errors
from moga.video.reader import VideoReadError, read_frames

FPS, WIDTH, HEIGHT, COUNT = 24, 96, 64, 36
CLEARLY = 3.0  # mean difference of 8-bit values, from which on a frame is another one


def source(rate=FPS, seconds=COUNT / FPS):
    """ffmpeg's words for pictures that move everywhere, and a tone."""
    picture = f"mandelbrot=size={WIDTH}x{HEIGHT}:rate={rate}:maxiter=60"
    return ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine", "-t", seconds]


YUV = ["-pix_fmt", "yuv420p"]
OPEN = "keyint=12:min-keyint=12:open-gop=1:bframes=3:direct=temporal:b-adapt=0:ref=4"
ENCODED = {
    "h264.mp4": ["-c:v", "libx264", "-c:a", "aac", *YUV],
    "h264.mkv": ["-c:v", "libx264", "-c:a", "aac", *YUV],
    "h264.ts": ["-c:v", "libx264", "-c:a", "aac", *YUV],
    "cavlc.mp4": ["-c:v", "libx264", "-profile:v", "baseline", "-movflags", "+faststart", *YUV],
    "mpeg4.avi": ["-c:v", "mpeg4", "-q:v", "3", "-bf", "2", "-c:a", "mp3", *YUV],
    "xvid.avi": ["-c:v", "libxvid", "-bf", "2", "-an", *YUV],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-q:v", "3", *YUV],
    "theora.ogv": ["-c:v", "libtheora", "-an", *YUV],
    "ffv1.mkv": ["-c:v", "ffv1", "-level", "3", "-an", *YUV],
    "prores.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le", "-an"],
    "open.mkv": ["-c:v", "libx264", "-x264-params", OPEN, "-c:a", "aac", *YUV],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none:open-gop=1", *YUV],
    "fragments.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov", *YUV],
    "interlaced.mp4": ["-c:v", "libx264", "-flags", "+ildct+ilme", *YUV],
    "av1.mp4": ["-c:v", "libsvtav1", "-an", *YUV],
    "some.gif": ["-an"],
    "uneven.mp4": ["-vf", "select='not(mod(n,3))'", "-fps_mode", "vfr", "-c:v", "libx264", *YUV],
}
NOTICE = list(ENCODED)[:10]  # codecs whose decoder sees much
COPIED = {  # from another one, without encoding
    "cut.mkv": ("open.mkv", ["-ss", "1.1"], []),
    "cut.mp4": ("open.mkv", ["-ss", "1.1"], []),  # with an edit list
    "cut_hevc.mp4": ("hevc.mp4", ["-ss", "1.1"], []),
    "disorder.mkv": ("h264.mp4", [], ["-bsf:v", "setts=pts=PTS-if(eq(mod(N\\,7)\\,3)\\,1100\\,0)"]),
    "disorder.ts": ("h264.mp4", [], ["-bsf:v", "setts=dts=DTS-if(eq(mod(N\\,7)\\,3)\\,900\\,0)"]),
    "bare.h264": ("h264.mp4", [], ["-an"]),
    "late.mkv": ("h264.mp4", ["-itsoffset", "2"], []),
    "noise.mkv": ("h264.mp4", [], ["-bsf:a", "noise=amount=3:drop=0"]),  # its sound is damaged
    "noise.ts": ("h264.mp4", [], ["-bsf:a", "noise=amount=3:drop=0"]),
}


@pytest.fixture(scope="module")
def films(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, words in ENCODED.items():
        make.ffmpeg(*source(), *words, folder / name)
    for name, (whole, before, after) in COPIED.items():
        make.ffmpeg(*before, "-i", folder / whole, "-c", "copy", *after, folder / name)
    (folder / "joined.ts").write_bytes((folder / "h264.ts").read_bytes() * 2)
    return folder


def frames_of(video, **options):
    read = read_frames(video, fps=FPS, width=WIDTH, height=HEIGHT, **options)
    return np.concatenate(list(read)).astype(np.int16)


@pytest.mark.parametrize("name", [*ENCODED, *COPIED, "joined.ts"])
def test_sound_clips_are_taken(films, name):
    assert decode_errors(films / name) == []
    assert len(frames_of(films / name))


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4"])
def test_what_is_passed_over_of_cut_clips_changes_no_picture(films, name):
    whole = frames_of(films / "open.mkv")
    nearest = [np.abs(whole - frame).mean((1, 2, 3)).min() for frame in frames_of(films / name)]
    assert max(nearest) == 0


@pytest.fixture(scope="module")
def sound(films):
    return {name: frames_of(films / name) for name in NOTICE}


flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
                 min_size=24, max_size=48)  # fmt: skip


@settings(
    max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(NOTICE), flips=flips)
def test_flipped_bytes_are_found_or_change_nothing(films, sound, tmp_path, name, flips):
    data = bytearray((films / name).read_bytes())
    for at, bits in flips:
        data[int(at * len(data))] ^= bits
    video = tmp_path / name
    video.write_bytes(data)
    errors = decode_errors(video)
    try:
        found = frames_of(video)
    except VideoReadError as error:
        assert errors and "replace" in str(error)
        return
    assert not errors
    for frame in found:
        assert np.abs(sound[name] - frame).mean((1, 2, 3)).min() < CLEARLY


@pytest.mark.parametrize("share", [0.4, 0.8])
@pytest.mark.parametrize("name", ["cavlc.mp4", "h264.mkv", "mpeg4.avi"])
def test_clips_that_were_cut_off_are_found(films, tmp_path, name, share):
    data = (films / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert decode_errors(tmp_path / name)
    with pytest.raises(VideoReadError, match=rf"^{name}: it is damaged, ffmpeg decodes it with "):
        frames_of(tmp_path / name)


def test_a_clip_that_gives_no_picture_is_found(films, tmp_path):
    """Without an error: its edit list begins after its end."""
    data = bytearray((films / "h264.mp4").read_bytes())
    at = data.index(b"elst") + 16
    data[at : at + 4] = (10**8).to_bytes(4, "big")
    (tmp_path / "a.mp4").write_bytes(data)
    assert decode_errors(tmp_path / "a.mp4") == ["no picture comes out of it"]
    with pytest.raises(VideoReadError, match="cannot be read to its end"):
        frames_of(tmp_path / "a.mp4")


def test_errors_are_counted_one_by_one():
    said = """\
[in#0/mpegts @ 0x55d0] [warning] Packet corrupt (stream = 0, dts = 482250).
[h264 @ 0x55d1] [error] mmco: unref short failure
[h264 @ 0x55d1] [error] error while decoding MB 6 3, bytestream -60
[h264 @ 0x55d1] [error] error while decoding MB 6 3, bytestream -60
[vist#0:0/h264 @ 0x55d2] [dec:h264 @ 0x55d3] [warning] corrupt decoded frame
[aac @ 0x55d4] [error] Number of bands (58) exceeds limit (43).
[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d4] [error] Referenced QT chapter track not found
[null @ 0x55d4] [error] Application provided invalid, non monotonically increasing dts to muxer
"""
    once = "error while decoding MB 6 3, bytestream -60"
    assert complaints(said) == [once, once, "corrupt decoded frame"]
    ended = "[matroska,webm @ 0x55d4] [error] File ended prematurely\n[error] No such file"
    assert complaints(ended) == ["File ended prematurely", "No such file"]


@pytest.fixture
def damaged(project):
    """A project whose second clip has flipped bytes. Returns its folder."""
    clip = project / "1.mp4"
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    for at in range(start + 700, len(data), 97):
        data[at] ^= 0xFF
    clip.unlink()
    clip.write_bytes(data)
    assert decode_errors(clip)
    return project


def test_check_decodes_every_clip(damaged, capsys):
    said = refused(damaged, capsys, "--check")
    errors = decode_errors(damaged / "1.mp4")
    count = f"{len(errors)} errors, first" if len(errors) > 1 else "an error"
    assert (
        f"line 2, 1.mp4: it is damaged, ffmpeg decodes it with {count} ({errors[0]}); "
        "replace the video." in said
    )
    assert "decoding every clip once" in said and "line 1" not in said and "line 3" not in said
    assert not (damaged / "cache").exists() and not (damaged / "training").exists()


def test_the_cache_takes_no_damaged_clip(damaged, capsys):
    said = refused(damaged, capsys, "--cache-only")
    assert "line 2: 1.mp4: it is damaged, ffmpeg decodes it with" in said
    assert "What was encoded so far is kept." in said
    rows = (damaged / "rows.jsonl").read_text().splitlines()
    (damaged / "rows.jsonl").unlink()
    (damaged / "rows.jsonl").write_text("\n".join(json.dumps(json.loads(r)) for r in rows[::2]))
    assert train(damaged, "--cache-only") == 0
