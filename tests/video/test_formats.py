"""Every format, read back by PyAV: frames, tags, chapters, sound; and the same with odd sizes."""

import json
import os
import re
import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moga.video import VideoError, VideoWriter, formats
from moga.video.audio import Audio
from moga.video.chapters import Chapter
from moga.video.formats import FORMATS, av1, choose_format, ffv1, h264, nvenc, png, prores, trial

av = pytest.importorskip("av", reason="PyAV reads the written videos back: pip install av")
pytest.importorskip("imageio_ffmpeg", reason="ffmpeg comes with it: pip install imageio-ffmpeg")

ON_CPU = [name for name in FORMATS if "nvenc" not in name]
WORKFLOW = {"nodes": [{"text": "a=b;c#d\\e\nümlaut [x] \r\n=" * 9000}], "version": 0.4}
TAGS = {"prompt": json.dumps({"1": {"class_type": "A"}}), "workflow": json.dumps(WORKFLOW)}


def pictures(frames=9, height=64, width=96):
    """Smooth moving colours, uint8 (T, H, W, 3)."""
    t, y, x = np.ogrid[:frames, :height, :width]
    waves = [x * 3 + t * 5 + y * 0, y * 5 + t * 3 + x * 0, x + y + t * 9]
    return np.stack([127 + 100 * np.sin(wave / 60) for wave in waves], axis=-1).astype(np.uint8)


def tone(seconds, rate=48000, channels=2):
    wave = 0.5 * np.sin(np.arange(int(seconds * rate)) * 440 * 2 * np.pi / rate)
    return Audio(np.stack([wave] * channels).astype(np.float32), rate)


def write(path, frames, encoder, **options):
    with VideoWriter(path, frames.shape[2], frames.shape[1], 16, encoder, **options) as video:
        video.write(frames)


def file_of(path, encoder):
    """What PyAV opens."""
    return str(path / "%06d.png") if encoder.is_folder else str(path)


@pytest.mark.parametrize("name", ON_CPU)
def test_frames_come_back(tmp_path, name):
    encoder = choose_format(name, 12)
    frames = pictures()
    path = tmp_path / f"a{encoder.extension}"
    write(path, frames, encoder)
    with av.open(file_of(path, encoder)) as container:
        back = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert back.shape == frames.shape
    if encoder.is_rgb:
        assert np.array_equal(back, frames)
    else:
        assert np.abs(back.astype(int) - frames).mean() < 2.5
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["h264", "h265", "av1", "prores"])
def test_colours_are_tagged(tmp_path, name):
    encoder = choose_format(name)
    path = tmp_path / f"a{encoder.extension}"
    write(path, pictures(2), encoder)
    with av.open(str(path)) as container:
        stream = next(container.decode(video=0))
        assert (stream.color_primaries, stream.color_trc, stream.colorspace) == (1, 1, 1)


@pytest.mark.parametrize("name", [name for name in ON_CPU if name not in ("ffv1", "png")])
def test_odd_sizes_are_refused_where_the_codec_needs_even_ones(tmp_path, name):
    with pytest.raises(ValueError, match=f"33x64; {name} needs a width and height .* of 2"):
        VideoWriter(tmp_path / "a", 33, 64, 16, choose_format(name))


@pytest.mark.parametrize("encoder", [ffv1(), png()], ids=["ffv1", "png"])
def test_odd_sizes_are_kept_where_they_can_be(tmp_path, encoder):
    frames = pictures(2, 31, 33)
    path = tmp_path / f"a{encoder.extension}"
    write(path, frames, encoder)
    with av.open(file_of(path, encoder)) as container:
        assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), frames[0])


@pytest.mark.parametrize("name", ["h264", "h265", "av1", "prores", "ffv1"])
def test_tags_chapters_and_sound(tmp_path, name):
    encoder = choose_format(name)
    path = tmp_path / f"a{encoder.extension}"
    chapters = [Chapter(0, 5, "one; = two"), Chapter(5, 4, "Close-up. Her #eyes")]
    sound = tone(9 / 16)
    write(path, pictures(), encoder, tags=TAGS, chapters=chapters, audio=sound)
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert {key: tags[key] for key in TAGS} == TAGS
        marks = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"])
            for c in container.chapters()
        ]
        heard = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
        stream = container.streams.audio[0]
        assert stream.rate == 48000 and stream.codec_context.channels == 2
    assert [title for title, *_ in marks] == [chapter.title for chapter in chapters]
    for (_, start, end), chapter in zip(marks, chapters, strict=True):
        assert abs(start - Fraction(chapter.start, 16)) < 0.002
        assert abs(end - Fraction(chapter.start + chapter.frames, 16)) < 0.002
    length = heard.shape[1] / (1 if stream.codec_context.format.is_planar else 2)
    assert abs(length / 48000 - 9 / 16) < 0.05


CAPTIONS = st.lists(
    st.sampled_from(["\\", "=", ";", "#", "[CHAPTER]", "\\n", "\t", "\0", " "])
    | st.sampled_from(["\u4f60\u597d", "\U0001f642"])
    | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=5),
    max_size=6,
).map("".join).filter(lambda text: text.strip())  # fmt: skip


@pytest.mark.parametrize("encoder", [h264(), prores(), ffv1()], ids=["mp4", "mov", "mkv"])
@settings(max_examples=15)
@given(titles=st.lists(CAPTIONS, min_size=1, max_size=20), tag=CAPTIONS)
@example(titles=["a\\", "b", "\\\\", "\\=", "c\\"], tag="t\\")
@example(titles=["x" * 65_535, "y"], tag="t")
@example(titles=["[CHAPTER]", ";FFMETADATA1", "#", "title=a"], tag="[CHAPTER]")
def test_every_chapter_has_its_title(tmp_path_factory, encoder, titles, tag):
    path = tmp_path_factory.mktemp("chapters") / f"a{encoder.extension}"
    chapters = [Chapter(i, 1, title) for i, title in enumerate(titles)]
    tags = {"workflow": tag, "prompt": "{}"}
    write(path, pictures(len(titles), 16, 16), encoder, tags=tags, chapters=chapters)
    with av.open(str(path)) as container:
        found = [chapter["metadata"].get("title", "") for chapter in container.chapters()]
        read = {key.lower(): value for key, value in container.metadata.items()}
    assert found == [title.replace("\0", "") for title in titles]
    assert (read.get("workflow", ""), read["prompt"]) == (tag.replace("\0", ""), "{}")


@pytest.mark.parametrize("encoder", [h264(), ffv1()], ids=["mp4", "mkv"])
def test_a_title_too_long_for_an_mp4_is_cut_between_characters(tmp_path, encoder):
    path = tmp_path / f"a{encoder.extension}"
    chapters = [Chapter(0, 1, "\u4f60" * 30_000), Chapter(1, 1, "b")]
    write(path, pictures(2, 16, 16), encoder, chapters=chapters)
    with av.open(str(path)) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
    assert titles == ["\u4f60" * (65_535 // 3), "b"]


@pytest.mark.parametrize("encoder", [h264(), prores()], ids=["mp4", "mov"])
def test_canvas_finds_the_workflow(tmp_path, encoder):
    path = tmp_path / f"a{encoder.extension}"
    write(path, pictures(), encoder, tags=TAGS, chapters=[Chapter(0, 9, "x")])
    assert canvas_tags(path.read_bytes()) == {key: json.loads(text) for key, text in TAGS.items()}


def canvas_tags(data):
    """Prompt and workflow of an mp4 where ComfyUI's frontend looks: moov, udta, meta, keys/ilst."""
    meta = box(box(box(data, b"moov"), b"udta"), b"meta")[4:]
    keys, names = box(meta, b"keys")[4:], []
    count, keys = struct.unpack(">I", keys[:4])[0], keys[4:]
    for _ in range(count):
        size = struct.unpack(">I", keys[:4])[0]
        names.append(keys[8:size].decode())
        keys = keys[size:]
    found = {}
    for kind, item in boxes(box(meta, b"ilst")):
        name = names[struct.unpack(">I", kind)[0] - 1]
        if name in TAGS:
            found[name] = json.loads(box(item, b"data")[8:])
    return found


def boxes(data):
    while len(data) >= 8:
        size = struct.unpack(">I", data[:4])[0]
        yield data[4:8], data[8:size]
        data = data[size:]


def box(data, wanted):
    return next(content for kind, content in boxes(data) if kind == wanted)


def test_picture_folder_has_everything_beside_the_pictures(tmp_path):
    write(tmp_path / "50%d", pictures(3), png(), tags=TAGS, audio=tone(3 / 16))
    names = [*(f"{n:06}.png" for n in (1, 2, 3)), "audio.wav", "prompt.json", "workflow.json"]
    assert sorted(os.listdir(tmp_path / "50%d")) == names
    assert (tmp_path / "50%d" / "workflow.json").read_text() == TAGS["workflow"]
    assert os.listdir(tmp_path) == ["50%d"]


def test_failed_picture_folder_is_removed(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "a", 96, 64, 16, png()) as video,
    ):
        video.write(pictures())
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_short_sound_leaves_the_video_whole(tmp_path):
    write(tmp_path / "a.mp4", pictures(32), h264(), audio=tone(0.2, rate=22050, channels=1))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == 32
        assert container.streams.audio[0].rate == 22050


# Around FLAC's smallest block, a block of AAC and one of ffmpeg's FLAC; and what a cut may leave.
LENGTHS = st.one_of(
    st.integers(1, 40),
    *(st.integers(block - 2, block + 17) for block in (1024, 4608)),
)


@pytest.mark.parametrize("name", ON_CPU)
@settings(max_examples=25, deadline=None)
@given(
    length=LENGTHS,
    rate=st.sampled_from([100, 8000, 12345, 22050, 44100, 48000, 96000, 192000]),
    channels=st.sampled_from([1, 2, 6]),
)
@example(length=1, rate=48000, channels=2)
@example(length=15, rate=12345, channels=1)
def test_a_sound_of_any_length_is_saved(tmp_path_factory, name, length, rate, channels):
    encoder = choose_format(name, 51)
    path = tmp_path_factory.mktemp("sound") / f"a{encoder.extension}"
    sound = np.full((channels, length), 0.25, np.float32)
    write(path, pictures(1, 64, 64), encoder, audio=Audio(sound, rate))
    with av.open(str(path / "audio.wav" if encoder.is_folder else path)) as container:
        heard = [frame.to_ndarray() for frame in container.decode(audio=0)]
        stream = container.streams.audio[0]
        samples = sum(each.size for each in heard) // channels
    if encoder.audio_options[1] == "aac":  # in blocks, at the nearest rate that it has
        assert samples >= 1
    else:
        assert (samples, stream.rate) == (length, rate)
        level = np.concatenate(heard, axis=None)
        level = level / (2**31 if level.dtype == np.int32 else 2**15)
        assert np.allclose(level, 0.25, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_sound_that_ends_near_a_cut(tmp_path_factory, data):
    """As films with shots have it: each shot gets the part of the sound that falls on it."""
    rate, fps = data.draw(st.sampled_from([8000, 44100, 48000])), 16
    frames = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    cut = sum(frames[: data.draw(st.integers(0, len(frames)))]) * rate // fps
    ends = max(1, cut + data.draw(st.integers(-20, 20)))
    sound = Audio(np.full((1, ends), 0.25, np.float32), rate)
    folder, at = tmp_path_factory.mktemp("cuts"), Fraction(0)
    for number, count in enumerate(frames):
        part = sound.cut(at, Fraction(count, fps))
        write(folder / f"{number}.mkv", pictures(count, 16, 16), ffv1(), audio=part)
        at += Fraction(count, fps)
        with av.open(str(folder / f"{number}.mkv")) as container:
            heard = sum(f.samples for f in container.decode(audio=0)) if part else 0
        assert heard == (part.samples.shape[1] if part else 0)


def test_sound_is_cut_to_the_part():
    sound = tone(2, rate=100)
    part = sound.cut(Fraction(1, 2), Fraction(1))
    assert np.array_equal(part.samples, sound.samples[:, 50:150])
    assert sound.cut(Fraction(2), Fraction(1)) is None


@pytest.mark.parametrize(
    ("samples", "rate", "problem"),
    [
        (np.zeros(9, np.float32), 9, r"shape \(9,\)"),
        (np.zeros((2, 0), np.float32), 9, r"shape \(2, 0\): it is empty; give a sound"),
        (np.zeros((0, 2, 9), np.float32), 9, r"shape \(0, 2, 9\): it is empty"),
        (np.zeros((1, 9), np.float32), 0, "0 samples a second"),
        (np.full((1, 9), np.nan, np.float32), 9, "aren't numbers"),
    ],
)
def test_impossible_sound(samples, rate, problem):
    with pytest.raises(ValueError, match=f"^audio has .*{problem}"):
        Audio(samples, rate)


def test_trial_tells_what_works_here():
    assert trial(h264()) is None
    assert trial(replace(h264(), options=("-rc", "vbr", "-c:v", "impossible"))) == (
        "h264 can't encode on this machine (this ffmpeg was built without impossible: update "
        "imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to another ffmpeg); try again or choose another "
        "format."
    )
    for codec in ("h264", "hevc", "av1"):  # with a card it works, and without one it says why
        problem = trial(nvenc(codec))
        assert problem is None or re.match(rf"{codec}_nvenc can't encode on this", problem)
        assert problem is None or problem.endswith("); try again or choose h264.")


def test_what_failed_once_is_tried_again(tmp_path):
    options = ("-c:v", "libx264", "-b:v", "1M", "-pass", "2", "-passlogfile", str(tmp_path / "log"))
    second_pass = replace(h264(), options=options)
    assert "h264 can't encode on this machine (ffmpeg: " in trial(second_pass)
    first_pass = replace(h264(), options=(*options[:4], "-pass", "1", *options[6:]))
    assert trial(first_pass) is None
    assert trial(second_pass) is None


def test_a_trial_that_takes_too_long_is_a_refusal(monkeypatch):
    monkeypatch.setattr(formats, "TRIAL_SECONDS", 0.001)
    assert trial(av1(23)) == (
        "av1 can't encode on this machine (ffmpeg: no answer in 0.001 seconds); try again or "
        "choose h264."
    )


def test_unknown_format_is_refused():
    with pytest.raises(ValueError, match="format is 'gif'; choose one of h264, h265"):
        choose_format("gif")


def test_size_limit_in_mid_run(tmp_path):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 96, 3), np.uint8)
    with (
        pytest.raises(VideoError, match=r"ffmpeg stopped with code .* at frame \d+"),
        VideoWriter(tmp_path / "a.mp4", 96, 64, 16, h264(1)) as video,
    ):
        resource.prlimit(video._process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        for _ in range(60):
            video.write(noise)
    assert os.listdir(tmp_path) == []


def test_full_disk_is_named(tmp_path):
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes a privileged user")
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 96, 3), np.uint8)
    try:
        with (
            pytest.raises(VideoError, match=r"(?s)No space left on device.*disk of .* is full"),
            VideoWriter(disk / "a.mp4", 96, 64, 16, h264(1)) as video,
        ):
            for _ in range(60):
                video.write(noise)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
