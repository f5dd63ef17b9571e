"""Samples as clips, by the numbers that every picture bears: none is lost, none comes twice."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered import HEIGHT, WIDTH, numbered, numbers

from moga.data.pipeline.clips import clip_size, excerpt_of, merge
from moga.data.pipeline.facts import FilmError
from moga.data.pipeline.plan import plan
from moga.data.pipeline.records import Boundary, Box, Facts, Film, Sample, Shot, Source
from moga.data.pipeline.rows import row_of, write_rows
from moga.data.pipeline.settings import Merge, Report, Settings
from moga.data.rows import examine, read_rows
from moga.video.reader import read_frames

COUNT = 260
AT = (24, 10)  # of the numbers, in pictures of BIG
BIG = (160, 64)
CROP = Box(*AT, WIDTH, HEIGHT)
FPS = {"h264.mp4": 24, "hevc.mkv": 25, "ntsc.mp4": 23.976, "ffv1.mkv": 16}
CODED = {
    "h264.mp4": ("-c:v", "libx264", "-bf", "3", "-g", "100"),
    "hevc.mkv": ("-c:v", "libx265", "-x265-params", "log-level=error"),
    "ntsc.mp4": ("-c:v", "libx264", "-bf", "2"),
}


@pytest.fixture(scope="module")
def sources(make, tmp_path_factory):
    """Films whose pictures bear their numbers at AT."""
    folder, found = tmp_path_factory.mktemp("sources"), {}
    for name, fps in FPS.items():
        frames = numbered(COUNT, width=BIG[0], height=BIG[1], at=AT)
        path = make.lossless(folder / f"{Path(name).stem}.mkv", frames, fps)
        if name in CODED:
            path = folder / f"coded_{name}"
            plain = folder / f"{Path(name).stem}.mkv"
            make.ffmpeg("-i", plain, "-pix_fmt", "yuv420p", *CODED[name], path)
        rate = Fraction(24000, 1001) if fps == 23.976 else Fraction(fps)
        found[name] = Source(name[:4], str(path), name, *BIG, rate, COUNT)
    return found


def a_film(source, edges, crop=CROP):
    """Shots between pairs of frames."""
    shots = []
    for index, (start, end) in enumerate(edges):
        edge = Boundary("cut", start, start)
        id = f"{source.id}-{index}"
        shots.append(
            Shot(id, source.id, index, start, end, edge, edge, crop=crop, caption=f"c{id}")
        )
    return Film(source, tuple(shots))


def how(fps, **changed):
    base = {"fps": fps, "width": WIDTH, "height": HEIGHT, "seconds_least": 0, "quality": 8}
    return Settings(merge=Merge(**{**base, **changed}))


def seen(row, fps):
    return read_frames(row.video, fps=fps, width=WIDTH, height=HEIGHT, excerpt=row.excerpt)


edges = st.sets(st.integers(0, COUNT - 2), min_size=2, max_size=8).map(sorted).map(
    lambda found: list(zip(found[::2], found[1::2], strict=False))
)  # fmt: skip


@pytest.mark.parametrize("clips", ["encoded", "virtual"])
@pytest.mark.parametrize("name", FPS)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edges=edges)
def test_every_frame_once_and_in_order(sources, tmp_path, name, clips, edges):
    fps = FPS[name]
    settings = how(fps, clips=clips)
    film = merge(plan(a_film(sources[name], edges), settings), settings, tmp_path)
    write_rows([film], settings, tmp_path)
    if not film.samples:
        assert not (tmp_path / "rows.jsonl").exists()
        return
    rows = read_rows(tmp_path / "rows.jsonl")
    left = {shot.id: list(range(shot.start, shot.end)) for shot in film.shots if shot.kept}
    for sample, row, examined in zip(film.samples, rows, examine(rows, fps=fps), strict=True):
        found = numbers(np.concatenate(list(seen(row, fps))))
        assert len(found) == sample.frames == examined.frames
        assert examined.cuts == tuple(shot.first for shot in sample.shots)
        ends = [*examined.cuts[1:], sample.frames]
        for shot, first, end in zip(sample.shots, examined.cuts, ends, strict=True):
            assert found[first:end] == left[shot.shot][: end - first]
            assert shot.start == found[first] and shot.end == found[end - 1] + 1
            del left[shot.shot][: end - first]
    assert all(len(rest) < 4 for rest in left.values())


def test_a_long_shot_goes_on_where_its_last_part_ended(sources, tmp_path):
    settings = how(24, seconds_most=2, clips="virtual")
    film = merge(plan(a_film(sources["h264.mp4"], [(3, 250)]), settings), settings, tmp_path)
    assert [sample.frames for sample in film.samples] == [41] * 6
    write_rows([film], settings, tmp_path)
    shown = [
        numbers(np.concatenate(list(seen(row, 24)))) for row in read_rows(tmp_path / "rows.jsonl")
    ]
    assert all(b == a + 1 for run in shown for a, b in pairwise(run))
    assert all(0 < after[0] - before[-1] <= 4 for before, after in pairwise(shown))


@pytest.mark.parametrize("rate", [8, 12, 16, 24])
@pytest.mark.parametrize("name", FPS)
def test_other_rates_take_even_steps_and_stay_in_their_shot(sources, tmp_path, name, rate):
    settings = how(rate, clips="virtual")
    edges = [(5, 77), (77, 140), (150, 259)]
    film = merge(plan(a_film(sources[name], edges), settings), settings, tmp_path)
    (sample,) = film.samples
    excerpt = excerpt_of(sample, film.source)
    found = read_frames(
        Path(film.source.path), fps=rate, width=WIDTH, height=HEIGHT, excerpt=excerpt
    )
    found = numbers(np.concatenate(list(found)))
    assert len(found) == sample.frames == excerpt.frames(rate)
    ends = [*(shot.first for shot in sample.shots[1:]), sample.frames]
    step = float(film.source.fps) / rate
    for shot, end, (a, b) in zip(sample.shots, ends, edges, strict=True):
        run = found[shot.first : end]
        assert all(a <= number < b for number in run)
        wanted = [a + step * i for i in range(len(run))]
        assert all(abs(x - y) <= max(1, step / 2 + 0.5) for x, y in zip(run, wanted, strict=True))


@pytest.mark.parametrize("name", FPS)
@pytest.mark.parametrize("crop", [CROP, None, Box(10, 6, 120, 50)])
@pytest.mark.parametrize("size", [(48, 16), (96, 32), (64, 64), (320, 192)])
def test_a_lossless_clip_is_bit_for_bit_what_the_row_of_a_film_reads(
    sources, tmp_path, name, crop, size
):
    frames = {}
    for clips in ("encoded", "virtual"):
        settings = how(FPS[name], clips=clips, quality=0, width=size[0], height=size[1])
        film = a_film(sources[name], [(5, 30), (37, 60)], crop)
        film = merge(plan(film, settings), settings, tmp_path)
        write_rows([film], settings, tmp_path)
        (row,) = read_rows(tmp_path / "rows.jsonl")
        assert row.video.suffix == ".mkv" or clips == "virtual"
        read = read_frames(
            row.video, fps=FPS[name], width=size[0], height=size[1], excerpt=row.excerpt
        )
        frames[clips] = np.concatenate(list(read))
    assert len(frames["encoded"]) == 45
    difference = np.abs(frames["encoded"].astype(int) - frames["virtual"]).max()
    # Where the trainer enlarges, colours of H.264 are converted before that instead of after.
    box = crop or Box(0, 0, *BIG)
    enlarged = size[0] > box.width or size[1] > box.height
    assert difference <= (4 if enlarged and name in CODED else 0)


def test_an_encoded_clip_differs_by_its_codec_alone(sources, tmp_path):
    settings = how(24, quality=10)
    film = merge(plan(a_film(sources["h264.mp4"], [(5, 30)]), settings), settings, tmp_path)
    (sample,) = film.samples
    size = {"fps": 24, "width": WIDTH, "height": HEIGHT}
    clip = np.concatenate(list(read_frames(tmp_path / sample.video, **size)))
    source = Path(film.source.path)
    part = read_frames(source, **size, excerpt=excerpt_of(sample, film.source))
    difference = np.abs(clip.astype(int) - np.concatenate(list(part)))
    assert difference.mean() < 2 and len(clip) == 25


def test_what_is_there_is_kept_and_what_is_asked_for_otherwise_is_made(sources, tmp_path):
    film = plan(a_film(sources["h264.mp4"], [(5, 30)]), how(24))
    (first,) = merge(film, how(24), tmp_path).samples
    made = (tmp_path / first.video).stat().st_mtime_ns
    partial = tmp_path / "clips" / f"{Path(first.video).stem}.partial.mp4"
    partial.touch()  # of a process that was killed; nobody else writes into a dataset
    (again,) = merge(film, how(24), tmp_path).samples
    assert again == first and (tmp_path / again.video).stat().st_mtime_ns == made
    (other,) = merge(film, how(24, quality=30), tmp_path).samples
    assert other.video != first.video
    (tmp_path / first.video).unlink()
    merge(film, how(24), tmp_path)
    assert (tmp_path / first.video).is_file() and not partial.exists()


def test_a_film_that_ends_early_is_told_and_leaves_no_clip(sources, tmp_path):
    film = plan(a_film(sources["h264.mp4"], [(200, COUNT + 90)]), how(24))
    with pytest.raises(FilmError, match=r"^coded_h264\.mp4 cannot be read to its end \(it ended"):
        merge(film, how(24), tmp_path)
    assert list((tmp_path / "clips").iterdir()) == []


def test_a_film_that_the_trainer_cannot_read_as_it_is_is_encoded(sources, tmp_path):
    facts = Facts("h264", "yuv420p", BIG, 1, interlaced=True)
    source = replace(sources["h264.mp4"], facts=facts)
    settings = how(24, clips="virtual")
    (sample,) = merge(plan(a_film(source, [(5, 30)]), settings), settings, tmp_path).samples
    assert not sample.virtual and (tmp_path / sample.video).is_file()
    assert "the trainer reads no interlaced or HDR film" in sample.decisions[-1].reason
    size = {"fps": 24, "width": WIDTH, "height": HEIGHT}
    found = np.concatenate(list(read_frames(tmp_path / sample.video, **size)))
    assert numbers(found) == list(range(5, 30))


@given(
    width=st.integers(64, 4000),
    height=st.integers(64, 4000),
    target=st.tuples(st.integers(2, 80), st.integers(2, 80)),
)
def test_a_clip_covers_the_training_and_is_never_enlarged(width, height, target):
    merge = Merge(width=target[0] * 16, height=target[1] * 16)
    source = Source("a", "/a", "a", width, height, Fraction(24), 9)
    wide, high = clip_size(Sample("a", "a", (), Fraction(24), 9, Fraction(0)), source, merge)
    assert wide <= width and high <= height
    assert (wide, high) == (width, height) or (wide >= merge.width and high >= merge.height)
    assert (wide, high) == (width, height) or wide == merge.width or high == merge.height


def test_a_row_without_captions_says_so(sources, tmp_path):
    film = a_film(sources["h264.mp4"], [(5, 30), (30, 60)])
    shots = (film.shots[0], replace(film.shots[1], caption=""))
    planned = plan(replace(film, shots=shots), how(24))
    (sample,) = merge(planned, how(24, clips="virtual"), tmp_path).samples
    row = row_of(replace(sample, global_caption="A film."), film.source)
    assert json.loads(json.dumps(row)) == row
    assert [shot["caption"] for shot in row["shots"]] == ["ch264-0", None]
    assert row["global"] == "A film." and "global" not in row_of(sample, film.source)


def test_no_film_is_in_both_files(sources, tmp_path):
    settings = how(24, clips="virtual").model_copy(update={"report": Report(validation=0.3)})
    films = [merge(plan(a_film(s, [(0, 99), (99, 200)]), settings), settings, tmp_path)
             for s in sources.values()]  # fmt: skip
    write_rows(films, settings, tmp_path)
    train, validation = (
        {row.video for row in read_rows(tmp_path / name)}
        for name in ("rows.jsonl", "validation_rows.jsonl")
    )
    assert not train & validation
    assert train | validation == {Path(source.path) for source in sources.values()}
