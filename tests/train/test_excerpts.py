"""Rows that are excerpts of videos train as the clips would that somebody cuts out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cache import a_spec, look
from training_runs import CONFIG, furnish, refused, train

from moga.train.cache.reader import load_latent, read_cache
from moga.train.cache.spec import latent_file, pieces
from moga.train.cache.writer import make_cache
from moga.train.ranks import Ranks
from moga.train.read_settings import read_settings
from moga.train.resume import fingerprint

FPS = 8
SPANS = ((3, 20), (24, 44))  # frames: 17 + 20 are 37 = 4 * 9 + 1
CROP = (8, 4, 48, 40)


@pytest.fixture(scope="module")
def film(make, tmp_path_factory) -> Path:
    frames = make.square(60, 5, size=64)
    return make.lossless(tmp_path_factory.mktemp("film") / "film.mkv", frames, FPS)


def clip_of(make, path: Path) -> Path:
    x, y, width, height = CROP
    frames = np.concatenate([make.square(60, 5, size=64)[a:b] for a, b in SPANS])
    return make.lossless(path, frames[:, y : y + height, x : x + width], FPS)


def row(video: Path, **excerpt) -> dict:
    shots = [{"start": 0, "caption": "wide"}, {"start": 17 / FPS, "caption": None}]
    return {"video": str(video), "global": "square", "shots": shots, **excerpt}


def spans(frames=SPANS):
    return [[a / FPS, b / FPS] for a, b in frames]


def write(folder: Path, *rows: dict) -> None:
    (folder / "rows.jsonl").unlink(missing_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_latents_are_bit_for_bit_those_of_a_clip(make, files, film, tmp_path):
    clip = clip_of(make, tmp_path / "clip.mkv")
    write(tmp_path, row(film, spans=spans(), crop=CROP), row(clip))
    spec = a_spec(files, tmp_path)
    virtual, real = look(tmp_path)
    assert virtual.frames == real.frames == 37 and virtual.cuts == real.cuts == (0, 17)
    make_cache(spec, [virtual, real])
    for seconds in spec.lengths:  # pieces begin inside spans, and go over from one into the next
        one, other = (read_cache(spec, [row], seconds) for row in (virtual, real))
        assert len(one) == len(other) == {1.0: 7, 2.0: 2}[seconds]
        for a, b in zip(one, other, strict=True):
            assert a.file != b.file and a.starts == b.starts and a.texts == b.texts
            assert torch.equal(load_latent(a), load_latent(b))


@pytest.mark.parametrize(
    "changed", [{"spans": spans(((4, 21), (24, 44)))}, {"crop": (8, 6, 48, 40)}, {"crop": None}]
)
def test_another_excerpt_is_another_clip(files, film, tmp_path, changed):
    """Of the same length and cuts, so that nothing else tells them apart."""
    folder = furnish(tmp_path, files)
    one = row(film, spans=spans(), crop=CROP)
    write(folder, one, {**one, **changed})
    spec, rows = a_spec(files, tmp_path), look(tmp_path)
    a, b = (latent_file(spec, pieces(row, 1.0)[0]) for row in rows)
    assert a != b
    settings = read_settings(folder / "config.toml")
    a, b = (fingerprint(settings, [row], Ranks()) for row in rows)
    assert a != b


def test_rows_without_captions_are_trained_and_counted(files, film, tmp_path, capsys):
    folder = furnish(tmp_path, files)
    write(folder, row(film, spans=spans(), crop=CROP), row(film, spans=spans(((0, 17), (30, 50)))))
    (folder / "words.jsonl").write_text((files / "rows.jsonl").read_text())  # 6 shots with words
    config = CONFIG.replace('validation_rows = "rows', 'validation_rows = "words')
    (folder / "config.toml").write_text(config)
    assert train(folder, "--check") == 0
    said = "2 of 10 shots have no caption and are trained with the global text"
    assert said in capsys.readouterr().out
    assert train(folder, "--stages.0.steps", "1", "--stages.1.steps", "1") == 0
    assert (folder / "training" / "model.safetensors").is_file()


def test_damage_counts_where_an_excerpt_has_it(make, files, tmp_path, capsys):
    """One row reads the sound beginning of a film, the other its damaged end."""
    folder = furnish(tmp_path, files)
    film = folder / "film.mkv"
    source = ("-f", "lavfi", "-i", "mandelbrot=size=64x64:rate=8:maxiter=60", "-t", "60")
    make.ffmpeg(*source, "-c:v", "mpeg4", "-q:v", "3", "-g", "8", film)
    data = bytearray(film.read_bytes())
    for place in range(len(data) * 3 // 4, len(data) * 3 // 4 + 12_000, 400):
        data[place] ^= 0xFF
    film.write_bytes(data)
    write(folder, row(film, spans=[[1, 6]]), row(film, spans=[[44, 49]]))
    message = refused(folder, capsys, "--check")
    assert "moga.train: line 2, film.mkv: it is damaged, ffmpeg decodes it with" in message
    assert "line 1" not in message
