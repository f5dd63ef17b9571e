"""The page: what it shows, that it needs nothing but itself, and how it works in a browser."""

import os
import re
from dataclasses import replace
from fractions import Fraction
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from find_comfyui import find_chromium
from hypothesis import given
from hypothesis import strategies as st
from numbered import numbered

from moga.data.pipeline.clips import merge
from moga.data.pipeline.plan import plan
from moga.data.pipeline.records import (
    Boundary,
    Box,
    Decision,
    Facts,
    Film,
    Sample,
    SampleShot,
    Shot,
    Source,
    Text,
)
from moga.data.pipeline.report.figures import histogram, reasons, steps
from moga.data.pipeline.report.page import span, write_report
from moga.data.pipeline.report.thumbnails import counts
from moga.data.pipeline.settings import Caption, Merge, Settings

HOW = Settings(merge=Merge(fps=16, seconds_least=0), caption=Caption(by="sidecar"))
EVIL = '</script><script>alert("1")</script> & <b>"quotes"</b>'


def a_film(path, name, *edges, **changed):
    shots = []
    for i, (start, end) in enumerate(edges):
        kinds = ("cut", start, start), ("transition", end, end + 4)
        before, after = (Boundary(*kind) for kind in kinds)
        scores = {"clarity": 0.1 * i + 0.05, "motion": 2.0, "dark": 0.0, "crop_share": 1.0}
        shot = Shot(f"{name}-{i}", name, i, start, end, before, after, scores=scores)
        shots.append(replace(shot, caption=f"Shot {i} of {name}. {EVIL}", caption_source="sidecar"))
    facts = Facts("ffv1", "bgr0", (96, 32), path.stat().st_size if path.exists() else 0)
    source = Source(name, str(path), f"{name}.mkv", 96, 32, Fraction(16), 200, facts=facts)
    return Film(replace(source, scores={"clarity": 0.3}, **changed), tuple(shots))


def dropped(shot, stage, measure="", value=None, limit=None, reason="why"):
    why = Decision(stage, False, reason, measure, value, limit)
    return replace(shot, kept=False, decisions=(*shot.decisions, why))


@pytest.fixture(scope="module")
def dataset(make, tmp_path_factory):
    """A page over a good film, one with dropped shots, texts and a crop, and a dropped film."""
    folder = tmp_path_factory.mktemp("dataset")
    films = []
    for name in ("good", "mixed"):
        path = make.lossless(folder.parent / f"{name}.mkv", numbered(200), 16)
        film = a_film(path, name, (0, 50), (50, 100), (104, 150), (150, 196))
        if name == "mixed":
            text = Text(Box(0, 24, 96, 8), 1.0)
            crop = Box(0, 0, 72, 24)
            shots = [replace(shot, texts=(text,), crop=crop) for shot in film.shots]
            shots[1] = dropped(shots[1], "score", "clarity", 0.01, 0.05, "is soft")
            film = replace(film, shots=tuple(shots))
        films.append(merge(plan(film, HOW), HOW, folder))
    gone = a_film(folder.parent / "gone.mkv", "gone", kept=False)
    why = Decision("probe", False, f"cannot be read {EVIL}")
    films.append(replace(gone, source=replace(gone.source, decisions=(why,))))
    write_report(films, HOW, folder)
    return folder, films


def test_the_page_shows_all_and_needs_nothing_else(dataset):
    folder, films = dataset
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    pictures = re.findall(r'<img src="([^"]+)"', page)
    assert len(pictures) == 4 + 3 + 1 + 1  # shots, dropped ones, and what is used of the picture
    assert all((folder / name).is_file() for name in pictures)
    assert set(pictures) == {f"report/{path.name}" for path in (folder / "report").iterdir()}
    assert "<script>alert" not in page and page.count("<script>") == 1
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    for film in films:
        assert film.source.name in text
    assert text.count(f"Shot 0 of good. {EVIL}") == 1
    assert "score:  is soft" in re.sub(r"\s", " ", text).replace("score: is", "score:  is")
    assert f"cannot be read {EVIL}" in text
    assert "clarity below 0.05" in text and "1 shot" in text


def test_a_page_is_the_same_again_and_its_pictures_are_kept(dataset):
    folder, films = dataset
    before = (folder / "report.html").read_bytes()
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "report").iterdir()}
    write_report(iter(films), HOW, folder)
    assert (folder / "report.html").read_bytes() == before
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "report").iterdir()} == times


def test_what_cannot_be_shown_is_said(tmp_path, make):
    path = make.lossless(tmp_path / "a.mkv", numbered(60), 16)
    film = merge(plan(a_film(path, "a", (0, 50)), HOW), HOW, tmp_path)
    path.unlink()
    (tmp_path / film.samples[0].video).write_bytes(b"junk")
    write_report([film], HOW, tmp_path)
    assert '<div class="none">cannot be read</div>' in (tmp_path / "report.html").read_text()


def test_an_empty_dataset_and_names_that_are_not_utf8(tmp_path):
    write_report([], Settings(), tmp_path)
    assert "No sample came out of 0 films" in (tmp_path / "report.html").read_text("utf-8")
    name = os.fsdecode(b"caf\xe9.mkv")
    why = Decision("probe", False, "holds no pictures; take it out.")
    source = Source("a", f"/films/{name}", name, decisions=(why,), kept=False)
    write_report([Film(source)], Settings(), tmp_path)
    assert "caf\ufffd.mkv" in (tmp_path / "report.html").read_text("utf-8")


def test_without_captions_and_without_the_learned_detector_the_page_says_so(tmp_path, make):
    path = make.lossless(tmp_path / "a.mkv", numbered(60), 16)
    film = a_film(path, "a", (0, 50), learned="never")
    film = replace(film, shots=tuple(replace(shot, caption="") for shot in film.shots))
    how = HOW.model_copy(update={"caption": Caption()})
    write_report([merge(plan(film, how), how, tmp_path)], how, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "No captions were made" in page and "the learned cut detector had no say" in page


# Figures


def test_what_each_stage_leaves(dataset):
    _, films = dataset
    found = {step.stage: (step.films, step.shots) for step in steps(films)}
    assert found == {
        "probe": (2, 0), "split": (2, 8), "score": (2, 7), "crop": (2, 7), "caption": (2, 7),
        "merge": (2, 7),
    }  # fmt: skip
    assert [(r.stage, r.what, r.words, r.count) for r in reasons(films)] == [
        ("score", "shots", "clarity below 0.05", 1),
        ("probe", "films", f"cannot be read {EVIL}", 1),
    ]


values = st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), max_size=60)


@given(values=values, limit=st.none() | st.floats(-10, 10))
def test_every_value_is_in_a_histogram_once(values, limit):
    found = histogram("a", "s", values, limit)
    assert sum(one.kept for one in found.bins) == sum(good for _, good in values)
    assert sum(one.dropped for one in found.bins) == sum(not good for _, good in values)
    assert all(a.high == pytest.approx(b.low) for a, b in pairwise(found.bins))
    if values:
        number = np.array([value for value, _ in values])
        low, high = found.bins[0].low, found.bins[-1].high
        outside = (number < low) | (number > high + 1e-9 * (high - low))
        assert outside.sum() <= max(1, len(values) // 100)


@given(
    edges=st.sets(st.integers(1, 400), min_size=1, max_size=9).map(sorted),
    wanted=st.integers(1, 12),
)
def test_every_shot_has_a_picture_and_long_ones_have_more(edges, wanted):
    firsts = [0, *edges[:-1]]
    shots = tuple(SampleShot(f"s{i}", first, 0, 9) for i, first in enumerate(firsts))
    found = counts(Sample("a", "a", shots, Fraction(16), edges[-1], Fraction(0)), wanted)
    assert sum(found) == max(wanted, len(shots)) and min(found) >= 1
    lengths = [b - a for a, b in zip(firsts, edges, strict=True)]
    pairs = [(a, b) for a in range(len(found)) for b in range(len(found))]
    assert all(found[a] >= found[b] - 1 for a, b in pairs if lengths[a] >= lengths[b])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.24, "4.2 s"), (59.94, "59.9 s"), (60, "1:00 min"), (3599, "59:59 min"),
     (3723, "1:02:03 h")],
)  # fmt: skip
def test_times_are_for_reading(seconds, text):
    assert span(seconds) == text


# In a browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not (chromium := find_chromium()):
        pytest.skip("no Chromium found to open the page in: install one (apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(browser, dataset, width):
    folder, _ = dataset
    page = browser.new_page(viewport={"width": width, "height": 900})
    wrong = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith("file:") else wrong.append(r.url))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.goto(Path(folder / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('img').forEach(one => { one.loading = 'eager' })")
    page.wait_for_function("[...document.images].every(one => one.complete && one.naturalWidth)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown = page.locator(".film:visible h3")
    assert shown.all_text_contents() == ["good.mkv", "mixed.mkv", "gone.mkv"]
    page.fill("#words", "shot of MIXED")
    assert shown.all_text_contents() == ["mixed.mkv"]
    assert page.text_content("#found") == "1 of 3"
    page.fill("#words", "")
    page.check("#lost")
    assert shown.all_text_contents() == ["mixed.mkv", "gone.mkv"]
    assert wrong == []
    page.close()
