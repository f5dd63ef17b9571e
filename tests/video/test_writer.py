"""Video files: what a separate reader (PyAV) finds in them, and what failures leave behind."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from shutil import ignore_patterns

import numpy as np
import pytest

from moga.video import VideoError, VideoWriter, frame_rate
from moga.video.chapters import Chapter
from moga.video.containers import flaw
from moga.video.ffmpeg import find_ffmpeg
from moga.video.formats import FORMATS, choose_format, h264, trial
from moga.video.per_shot import ShotFiles

av = pytest.importorskip("av", reason="PyAV reads the written videos back: pip install av")
imageio_ffmpeg = pytest.importorskip(
    "imageio_ffmpeg", reason="ffmpeg comes with it: pip install imageio-ffmpeg"
)


def pictures(frames, height=32, width=48):
    """Smooth moving colours, uint8 (T, H, W, 3)."""
    t, y, x = np.ogrid[:frames, :height, :width]
    waves = [x * 3 + t * 5 + y * 0, y * 5 + t * 3 + x * 0, x + y + t * 9]
    return np.stack([127 + 100 * np.sin(wave / 60) for wave in waves], axis=-1).astype(np.uint8)


def write(path, frames, fps=16, **options):
    with VideoWriter(path, frames.shape[2], frames.shape[1], fps, **options) as video:
        for chunk in np.array_split(frames, -(-len(frames) // 4)):
            video.write(chunk)


def read(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        return frames, stream


def processes():
    """Ids of this process's children."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


class Stuck(VideoWriter):
    """Its ffmpeg takes what it is given and never ends."""

    def __enter__(self):
        super().__enter__()
        os.kill(self._process.pid, signal.SIGSTOP)
        return self


def test_a_shot_can_be_killed_while_its_encoder_ends(tmp_path):
    chapter = Chapter(0, 8, "one")
    shots = ShotFiles([chapter], lambda number, _: Stuck(tmp_path / "1.mp4", 48, 32, 16))
    errors, before = [], processes()

    def write_all():
        try:
            with shots:
                shots.write(pictures(8))
        except VideoError as error:
            errors.append(error)

    thread = threading.Thread(target=write_all)
    thread.start()
    deadline = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < deadline:
        shots.kill()
        thread.join(0.05)
    assert not thread.is_alive() and len(errors) == 1
    assert os.listdir(tmp_path) == [] and processes() == before


def test_frames_come_back_in_order(tmp_path):
    frames = pictures(37)
    write(tmp_path / "a.mp4", frames, fps=12.5)
    back, stream = read(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    assert stream.average_rate == 12.5 and stream.frames == 37
    assert np.abs(back.astype(int) - frames).mean() < 3
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_file_plays_everywhere(tmp_path):
    write(tmp_path / "a.mp4", pictures(2))
    _, stream = read(tmp_path / "a.mp4")
    context = stream.codec_context
    assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    # 1 is BT.709 in all three tables of the standard, and 1 is limited range.
    tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
    assert tags == (1, 1, 1, 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # faststart


def test_flat_colour_survives_within_2(tmp_path):
    levels = [0, 1, 16, 77, 128, 200, 235, 254, 255]
    colours = np.array([(r, g, b) for r in levels for g in levels for b in levels], np.uint8)
    flat = colours.reshape(-1, 1, 1, 3).repeat(32, axis=1).repeat(32, axis=2)
    write(tmp_path / "flat.mp4", flat)
    with av.open(str(tmp_path / "flat.mp4")) as container:
        decoded = list(container.decode(video=0))
    back = np.stack([bt709_to_rgb(frame) for frame in decoded])
    assert np.abs(back - flat).max() <= 2
    # The quick conversion that players and ComfyUI's Load Video use may round one step further.
    quick = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(int)
    assert np.abs(quick - flat).max() <= 3 and np.abs(quick - flat).mean() < 1


def bt709_to_rgb(frame):
    """RGB of a yuv420p frame by the formula of ITU-R BT.709 in limited range, rounded."""
    planes = [np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    y, cb, cr = (plane.astype(float) for plane in planes)
    y = (y - 16) / 219
    cb, cr = ((c.repeat(2, axis=0).repeat(2, axis=1) - 128) / 224 for c in (cb, cr))
    r, b = y + 2 * (1 - 0.2126) * cr, y + 2 * (1 - 0.0722) * cb
    g = (y - 0.2126 * r - 0.0722 * b) / 0.7152
    return (np.stack([r, g, b], axis=-1) * 255).round().clip(0, 255)


def test_crf_trades_size_for_error(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    for crf in (5, 40):
        write(tmp_path / f"{crf}.mp4", frames, encoder=h264(crf))
    assert (tmp_path / "5.mp4").stat().st_size > 3 * (tmp_path / "40.mp4").stat().st_size


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (16.0, Fraction(16)),
        (12.5, Fraction(25, 2)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (23.9, Fraction(239, 10)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
    ],
)
def test_frame_rate_is_the_one_meant(fps, rate):
    assert frame_rate(fps) == rate


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1001])
def test_impossible_frame_rate(fps):
    with pytest.raises(ValueError, match=r"^fps is "):
        frame_rate(fps)


@pytest.mark.parametrize("crf", [-1, 52])
def test_impossible_crf(crf):
    with pytest.raises(ValueError, match=f"^crf is {crf};"):
        h264(crf)


@pytest.mark.parametrize("size", [(33, 32), (32, 33), (0, 32)])
def test_size_the_pixel_format_cannot_hold(tmp_path, size):
    with pytest.raises(ValueError, match="h264 needs a width and height that are multiples of 2"):
        VideoWriter(tmp_path / "a.mp4", *size, fps=16)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 32, 48, 3), np.float32),
        np.zeros((1, 48, 32, 3), np.uint8),
        np.zeros((32, 48, 3), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(tmp_path, frames):
    with (
        pytest.raises(ValueError, match=r"this video takes uint8 \(frames, 32, 48, 3\)"),
        VideoWriter(tmp_path / "a.mp4", 48, 32, 16) as video,
    ):
        video.write(frames)
    assert os.listdir(tmp_path) == []


def test_exception_in_the_block_leaves_nothing(tmp_path):
    before = processes()
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "a.mp4", 48, 32, 16) as video,
    ):
        video.write(pictures(20))
        assert os.listdir(tmp_path) == ["a.partial.mp4"]
        assert len(processes()) == len(before) + 1
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    assert processes() == before


def test_nothing_written_is_no_video(tmp_path):
    with (
        pytest.raises(VideoError, match=r"No frame was written, so there is no a\.mp4"),
        VideoWriter(tmp_path / "a.mp4", 48, 32, 16),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_error_text_of_ffmpeg_reaches_the_user(tmp_path):
    broken = replace(h264(), options=("-c:v", "libx264", "-profile:v", "impossible"))
    with pytest.raises(VideoError, match=r"(?s)ffmpeg stopped with code .*impossible"):
        write(tmp_path / "a.mp4", pictures(200), encoder=broken)
    assert os.listdir(tmp_path) == []


def test_much_text_from_ffmpeg_does_not_block(tmp_path):
    noisy = replace(h264(), options=("-c:v", "libx264", "-loglevel", "trace"))
    write(tmp_path / "a.mp4", pictures(60), encoder=noisy)
    assert len(read(tmp_path / "a.mp4")[0]) == 60


def test_ffmpeg_killed_in_mid_run(tmp_path):
    with (
        pytest.raises(VideoError, match=r"ffmpeg stopped with code -9 at frame \d+: it gave no"),
        VideoWriter(tmp_path / "a.mp4", 48, 32, 16) as video,
    ):
        video.write(pictures(4))
        video._process.kill()
        for _ in range(100):
            video.write(pictures(40))
    assert os.listdir(tmp_path) == []


def test_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.mp4 exists already"):
        write(path, pictures(1))
    assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["a.mp4"]


def test_file_that_appears_meanwhile_is_kept_and_so_is_the_video(tmp_path):
    path = tmp_path / "a.mp4"
    with (
        pytest.raises(FileExistsError, match=r"the new video is .*a\.kept\.mp4"),
        VideoWriter(path, 48, 32, 16) as video,
    ):
        video.write(pictures(3))
        path.write_bytes(b"precious")
    assert path.read_bytes() == b"precious"
    assert len(read(tmp_path / "a.kept.mp4")[0]) == 3


def test_two_writers_of_one_name(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 48, 32, 16) as video:
        video.write(pictures(2))
        with pytest.raises(FileExistsError, match=r"a\.mp4 is being written or was cut off"):
            write(tmp_path / "a.mp4", pictures(1))
        video.write(pictures(2))
    assert len(read(tmp_path / "a.mp4")[0]) == 4


@pytest.mark.parametrize("name", ["a b'c.mp4", "50%d.mp4", "ümlaut.mp4", "-dash.mp4", "c:d.mp4"])
def test_odd_file_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(name, pictures(1))
    assert len(read(tmp_path / name)[0]) == 1


def test_missing_imageio_ffmpeg_names_the_command(tmp_path):
    # In a process of its own, where the import really fails.
    code = (
        "import sys; sys.modules['imageio_ffmpeg'] = None; from moga.video import VideoWriter; "
        "VideoWriter('a.mp4', 32, 32, 16)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=path_to_moga()
    )
    assert "MissingPackageError: Saving a video needs imageio-ffmpeg" in run.stderr
    assert "`python -m pip install imageio-ffmpeg`" in run.stderr


STAND_INS = {
    "does nothing": "exit 0",
    "takes all and writes nothing": "cat > /dev/null",
    "writes an empty file": 'cat > /dev/null; for file; do :; done; : > "${file#file:}"',
    "loses the end": (
        'ffmpeg "$@"; for file; do :; done; file="${file#file:}"; '
        'case "$file" in *%06d.png) file="${file%/*}/000003.png";; esac; '
        'truncate -s -9 "$file"'
    ),
    "writes another file": 'cat > /dev/null; for file; do :; done; echo hello > "${file#file:}"',
}


@pytest.mark.parametrize("format", [name for name in FORMATS if "nvenc" not in name])
@pytest.mark.parametrize("what", STAND_INS)
def test_an_ffmpeg_that_ends_well_without_a_whole_file(tmp_path, monkeypatch, what, format):
    """A small program in its place, found as imageio-ffmpeg lets people name one."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nffmpeg() {{ '{find_ffmpeg()}' \"$@\"; }}\n{STAND_INS[what]}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    encoder = choose_format(format)
    folder = tmp_path / "videos"
    folder.mkdir()
    with pytest.raises(VideoError) as error:
        write(folder / f"a{encoder.extension}", pictures(3), encoder=encoder)
    # It may have gone before it was given the frames.
    assert re.match(
        r"ffmpeg (ended without an error, but a\S* isn't whole: |stopped)", str(error.value)
    )
    assert os.listdir(folder) == []


@pytest.mark.parametrize("format", [name for name in FORMATS if "nvenc" not in name])
def test_no_byte_of_a_file_may_be_missing(tmp_path, format):
    encoder = choose_format(format)
    path = tmp_path / f"a{encoder.extension}"
    write(path, pictures(3), encoder=encoder)
    file = path / "000002.png" if encoder.is_folder else path
    whole = file.read_bytes()
    assert flaw(path, encoder, 3, sound=False) is None
    for length in {*range(0, len(whole), max(1, len(whole) // 97)), *range(40), len(whole) - 1}:
        file.write_bytes(whole[:length])
        assert flaw(path, encoder, 3, sound=False), length
    file.unlink()
    assert flaw(path, encoder, 3, sound=False)


def test_a_file_of_more_than_4_gb_is_whole(tmp_path):
    """The length of its frames takes 64 bits."""
    path = tmp_path / "a.mp4"
    length = 5 * 2**30
    with open(path, "wb") as file:
        file.write(struct.pack(">I4s", 16, b"ftyp").ljust(16, b"\0"))
        file.write(struct.pack(">I4s", 8, b"moov"))
        file.write(struct.pack(">I4sQ", 1, b"mdat", length))
        file.truncate(24 + length)  # of which nothing takes room on the disk
    assert flaw(path, h264(), 3, sound=False) is None


def no_ffmpeg(monkeypatch, tmp_path):
    """What people have whose imageio-ffmpeg came without a program."""
    package = tmp_path / "imageio_ffmpeg"
    shutil.copytree(
        Path(imageio_ffmpeg.__file__).parent, package, ignore=ignore_patterns("ffmpeg-*")
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from moga.video import VideoWriter; "
        "VideoWriter('a.mp4', 32, 32, 16)"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", path_to_moga()["PYTHONPATH"])
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    return [sys.executable, "-c", code, str(tmp_path)]


def test_imageio_ffmpeg_without_a_program(tmp_path, monkeypatch):
    if (Path(sys.prefix) / "bin" / "ffmpeg").exists():
        pytest.skip("imageio-ffmpeg finds the one of this environment")
    run = subprocess.run(no_ffmpeg(monkeypatch, tmp_path), capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].startswith(
        "moga.errors.MissingPackageError: Saving a video needs ffmpeg, and imageio-ffmpeg has no "
        "program to run; run `python -m pip install --force-reinstall imageio-ffmpeg`"
    )


@pytest.mark.parametrize("kind", ["not there", "not executable", "a folder"])
def test_a_named_ffmpeg_that_cannot_be_run(tmp_path, monkeypatch, kind):
    program = tmp_path / "my_ffmpeg"
    if kind == "a folder":
        program.mkdir()
    elif kind == "not executable":
        program.write_text("#!/bin/sh\n")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(
        ImportError, match=r"no program to run at .*my_ffmpeg \(from IMAGEIO_FFMPEG_"
    ):
        write(tmp_path / "a.mp4", pictures(1))
    assert not (tmp_path / "a.mp4").exists()


def test_an_ffmpeg_of_another_machine(tmp_path, monkeypatch):
    program = tmp_path / "my_ffmpeg"
    program.write_bytes(b"\x7fELF\0\0\0")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(VideoError, match=r"^ffmpeg can't be started: .*my_ffmpeg"):
        write(tmp_path / "a.mp4", pictures(1))
    assert os.listdir(tmp_path) == ["my_ffmpeg"]
    assert "ffmpeg can't be started: " in trial(replace(h264(), pixel_format="yuv422p"))


def path_to_moga():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
