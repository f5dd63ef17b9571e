"""From films to rows through the real command line: captions, clips, rows and page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from chat_server import CAPTION, ChatServer, completion, raw, slow
from joined import PIECES, Join, join

from moga.data.cli import main
from moga.data.rows import examine, read_rows
from moga.video.reader import read_frames

ROOT = Path(__file__).parents[3]
QUICK = ("--split.learned", "never", "--text.when", "never", "--jobs", "2")
SMALL = ("--merge.width", "160", "--merge.height", "96", "--crop.share_least", "0")
ROWS = ("rows.jsonl", "validation_rows.jsonl")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three films of two or three shots, and one that is none."""
    folder = tmp_path_factory.mktemp("films")
    cut = Join("cut")
    join(folder / "a.mp4", (PIECES[0], PIECES[3], PIECES[12]), [cut, cut], (320, 180))
    join(folder / "b.mp4", (PIECES[3], PIECES[0]), [cut], (320, 180))
    join(folder / "c.mp4", (PIECES[12], PIECES[0]), [cut], (320, 180))
    (folder / "no.mp4").write_bytes(b"junk" * 100)
    return folder


@pytest.fixture(scope="module")
def cropped(films, tmp_path_factory):
    """A dataset whose films are ready for captions; not to be changed."""
    out = tmp_path_factory.mktemp("out") / "set"
    assert main(["probe", str(films), "--out", str(out), *QUICK, *SMALL]) == 0
    for stage in ("split", "score", "crop"):
        assert main([stage, "--out", str(out), "--jobs", "2"]) == 0
    return out


@pytest.fixture
def out(cropped, tmp_path):
    import shutil

    shutil.copytree(cropped, tmp_path / "set")
    return tmp_path / "set"


def go_on(films, out, *words):
    return main(["build", str(films), "--out", str(out), *words])


def rows_of(out):
    return [row for name in ROWS for row in read_rows(out / name)]


def made(out):
    """Rows, and bytes of the clips."""
    rows = {name: (out / name).read_bytes() for name in ROWS}
    return rows | {path.name: path.read_bytes() for path in (out / "clips").iterdir()}


def test_films_become_rows_clips_and_a_page(films, out, capsys):
    assert go_on(films, out) == 0
    rows = rows_of(out)
    examined = examine(rows, fps=16)
    assert all(one.frames % 4 == 1 for one in examined)
    assert all(cut % 4 == 1 for one in examined for cut in one.cuts[1:])
    assert all(shot.caption == "" for row in rows for shot in row.shots)  # null, in the file
    assert '"caption": null' in (out / "rows.jsonl").read_text()
    assert len({row.video for row in read_rows(out / ROWS[1])}) >= 1
    first = next(read_frames(rows[0].video, fps=16, width=160, height=96))
    assert first.shape[1:] == (96, 160, 3)
    said = capsys.readouterr().out
    assert "Dropped no.mp4" in said and f"They make {len(rows)} samples; " in said
    assert (out / "report.html").is_file()
    before = {path: path.stat().st_mtime_ns for path in (out / "clips").iterdir()}
    assert go_on(films, out) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "clips").iterdir()} == before


def test_films_that_are_no_longer_named_leave_and_one_leaves_none_to_validate_on(
    films, out, capsys
):
    assert go_on(films / "a.mp4", out) == 0
    said = capsys.readouterr().out
    assert "3 films of before are not among these and leave the dataset" in said
    assert "leave data.validation_rows out." in said and not (out / ROWS[1]).exists()


def test_rows_and_page_by_themselves(films, out):
    assert go_on(films, out) == 0
    for name, stage in ((ROWS[0], "rows"), ("report.html", "report")):
        before = (out / name).read_bytes()
        (out / name).unlink()
        assert main([stage, "--out", str(out)]) == 0
        assert (out / name).read_bytes() == before


def test_virtual_rows_show_what_the_clips_show(films, out, tmp_path):
    assert go_on(films, out, "--merge.quality", "0", "--redo", "caption") == 0
    clips = rows_of(out)
    frames = {}
    for row in clips:
        read = read_frames(row.video, fps=16, width=160, height=96)
        frames[row.video.name[:20]] = np.concatenate(list(read))
    words = ("--merge.clips", "virtual", "--redo", "caption")
    assert go_on(films, out, *words) == 0
    virtual = rows_of(out)
    assert {row.video for row in virtual} <= set(films.iterdir())
    found = [
        np.concatenate(list(read_frames(r.video, fps=16, width=160, height=96, excerpt=r.excerpt)))
        for r in virtual
    ]
    for one, clip in zip(found, frames.values(), strict=True):
        assert np.array_equal(one, clip)


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_an_interrupt_while_captions_are_written_stops_at_once_and_costs_no_film(films, out):
    with ChatServer(*[slow(0.5)] * 99) as server:
        words = ("--caption.by", "endpoint", "--caption.url", server.url, "--caption.model",
                 "vision", "--caption.concurrency", "1", "--redo", "caption")  # fmt: skip
        command = [sys.executable, "-m", "moga.data", "build", str(films), "--out", str(out)]
        run = subprocess.Popen(
            [*command, *words], stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )
        while not server.calls:
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)
        _, err = run.communicate(timeout=60)
        assert run.returncode == 130, err
        asked = len(server.calls)
        assert asked <= 6  # two for each of the three films at most, which have seven shots
    with ChatServer() as server:
        words = ("--caption.url", server.url, "--redo", "caption")
        assert go_on(films, out, *words) == 0
    assert {shot.caption for row in rows_of(out) for shot in row.shots} == {CAPTION}


def test_an_endpoint_writes_the_captions(films, out):
    with ChatServer() as server:
        words = ("--caption.by", "endpoint", "--caption.url", server.url,
                 "--caption.model", "vision", "--redo", "caption")  # fmt: skip
        assert go_on(films, out, *words) == 0
        rows = rows_of(out)
        assert {shot.caption for row in rows for shot in row.shots} == {CAPTION}
        several = [row for row in rows if len(row.shots) > 1]
        assert {row.global_text for row in several} == {"A bright square."}
        calls = len(server.calls)
        assert go_on(films, out) == 0 and len(server.calls) == calls
        assert go_on(films, out, "--redo", "caption") == 0 and len(server.calls) == calls
    page = (out / "report.html").read_text()
    assert CAPTION in page and f"tokens in {calls} answers" in page


def test_an_endpoint_that_is_down_is_said_before_any_film_is_read(films, tmp_path, capsys):
    with ChatServer() as server:
        pass
    words = ("--caption.by", "endpoint", "--caption.url", server.url, "--caption.model", "vision")
    assert go_on(films, tmp_path / "set", *words) == 2
    assert "where nobody answers (" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_an_endpoint_that_goes_down_ends_the_run_and_nothing_is_lost(films, out, capsys):
    words = ("--caption.by", "endpoint", "--caption.model", "vision", "--caption.tries", "2",
             "--caption.concurrency", "1")  # fmt: skip
    with ChatServer(CAPTION, CAPTION, *[503] * 99) as server:
        where = ("--caption.url", server.url)
        assert go_on(films, out, *words, *where, "--redo", "caption") == 2
    assert "failed 2 times, at last so: 503" in capsys.readouterr().err
    with ChatServer() as server:
        where = ("--caption.url", server.url)
        assert go_on(films, out, *words, *where, "--redo", "caption") == 0
    shots = sum(len(row.shots) for row in rows_of(out))
    several = sum(len(row.shots) > 1 for row in rows_of(out))
    assert len(server.calls) == shots - 2 + several


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_killed_while_it_writes_clips_it_goes_on(films, out, tmp_path):
    import shutil

    shutil.copytree(out, tmp_path / "whole")
    assert go_on(films, tmp_path / "whole") == 0
    command = [sys.executable, "-m", "moga.data", "build", str(films), "--out", str(out)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(out.glob("clips/*")) and run.poll() is None:
        time.sleep(0.01)
    below = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.kill()
    run.communicate()
    assert psutil.wait_procs(below, 60)[1] == []  # they end with it
    assert go_on(films, out) == 0
    assert made(out) == made(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_killed_while_it_asks_it_pays_for_no_answer_twice(films, out):
    def never(handler, body):
        time.sleep(60)

    words = ("--caption.by", "endpoint", "--caption.model", "vision", "--caption.concurrency", "1",
             "--redo", "caption")  # fmt: skip
    with ChatServer(CAPTION, CAPTION, raw(completion(CAPTION)), *[never] * 9) as server:
        command = [sys.executable, "-m", "moga.data", "build", str(films), "--out", str(out)]
        command += [*words, "--caption.url", server.url]
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(server.calls) < 4 and run.poll() is None:
            time.sleep(0.01)
        run.kill()
        run.communicate()
        kept = len(list((out / "captions").glob("*/*.json")))
        assert kept == 3
        before = len(server.calls)
        server.replies.clear()
        assert go_on(films, out, *words, "--caption.url", server.url) == 0
    rows = rows_of(out)
    shots = sum(len(row.shots) for row in rows)
    assert len(server.calls) - before == shots - 3 + sum(len(row.shots) > 1 for row in rows)


def test_a_full_disk_is_said_and_no_film_is_blamed(films, out, capsys):
    """As much of it as a limit on the size of files can be."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert go_on(films, out) != 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert all(".partial." in path.name for path in out.glob("clips/*"))
    assert not list(out.glob("records/merge/*.json"))
    assert go_on(films, out) == 0
    assert json.loads((out / ROWS[0]).read_text().splitlines()[0])["video"].startswith("clips/")
