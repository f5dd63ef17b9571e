"""The benchmark of a real ComfyUI: its plan, going on where it was, its tables, and a quick run."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from find_comfyui import find_comfyuis  # noqa: E402

FOLDER = ROOT / "benchmarks"
COMFYUIS = find_comfyuis()
needs_comfyui = pytest.mark.skipif(not COMFYUIS, reason="no ComfyUI found: set COMFYUI_PATH")


@pytest.fixture
def module(monkeypatch):
    """Of the benchmark, by the end of its name."""
    monkeypatch.syspath_prepend(FOLDER)
    return lambda name: importlib.import_module(f"comfyui{name}")


@pytest.fixture
def folder(tmp_path):
    """What passes for a ComfyUI as long as nothing is started."""
    for name in ("main.py", "nodes.py"):
        (tmp_path / name).touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "1.2.3"\n')
    return tmp_path


def options(module, monkeypatch, folder, *words):
    argv = ["comfyui.py", "--comfyui", str(folder), "--device", "cpu", *words]
    monkeypatch.setattr(sys, "argv", argv)
    return module("").parse()


def test_every_case_of_the_issue_has_jobs_with_names_of_their_own(module, monkeypatch, folder):
    jobs, small = module("_jobs"), options(module, monkeypatch, folder)
    real = ["--sizes", "1.3B", "14B", "--frames", "81", "201", "477", "--minute", "1441"]
    for asked in (small, options(module, monkeypatch, folder, *real)):
        if asked is not small:
            asked.device, asked.cards = "cuda", [None, 12, 24]
        found = list(jobs.jobs(asked))
        assert {job.case for job in found} == set(range(1, 8))
        assert len({job.name for job in found}) == len(found)
        for job in found:
            for way in job.ways:
                assert jobs.seconds_of(job, way, asked) > 0
    heavy = {j.name: j for j in found}["1 speed: 14B fp8, 477 f"]
    assert jobs.seconds_of(heavy, "stock", asked) > 3 * jobs.seconds_of(heavy, "moga-20", asked)
    assert heavy.ways[:2] == ("stock", "dense") and found[0].model == "1.3B"


def test_rows_of_the_same_place_are_not_measured_again(module, monkeypatch, folder, capsys):
    main, path = module(""), folder / "found.json"
    words = ["--cases", "1", "--dtypes", "bf16", "--json", str(path), "--plan"]
    monkeypatch.setattr(main, "run_job", None)  # a plan starts nothing
    (job,) = module("_jobs").jobs(options(module, monkeypatch, folder, *words))
    place = {"ComfyUI": "1.2.3", "device": "cpu"}
    rows = [{**job.facts(), "way": "stock", **place}]
    rows += [{**job.facts(), "way": "dense", **place, "error": "out of memory"}]
    rows += [{**job.facts(), "way": "moga-5 sdpa", **place, "device": "another card"}]
    path.write_text(json.dumps({"machine": {}, "rows": rows}))
    assert main.main() == 0
    assert f"{job.name}: moga-5 sdpa, moga-20 sdpa\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--again"])
    assert main.main() == 0
    assert f"{job.name}: dense, moga-5 sdpa, moga-20 sdpa\n" in capsys.readouterr().out


def test_some_of_the_ways(module, monkeypatch, folder):
    asked = options(module, monkeypatch, folder, "--ways", "stock", "moga-5 sdpa")
    found = list(module("_jobs").jobs(asked))
    assert {way for job in found for way in job.ways} == {"stock", "moga-5 sdpa"}
    assert {job.case for job in found} == {1, 3, 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cards", "12"], "--cards limits a card; --device cpu has none"),
        (["--comfyui", "elsewhere"], "--comfyui is elsewhere, which is no ComfyUI folder"),
        (["--cases", "8"], "invalid choice: 8"),
    ],
)
def test_what_cannot_be_measured_is_said(module, monkeypatch, folder, capsys, words, said):
    with pytest.raises(SystemExit):
        options(module, monkeypatch, folder, *words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("frames", [1, 5, 17, 81, 477, 1441])
@pytest.mark.parametrize("shots", [1, 6, 12])
def test_shots_fill_the_video(module, frames, shots):
    from moga.shots import ShotList

    lengths = module("_sizes").lengths(frames, shots)
    parsed = ShotList.parse("\n".join(f"[{n}f] a" for n in lengths), 16)
    assert parsed.frames == frames and len(lengths) <= shots


def test_the_report_has_what_was_measured_and_nothing_else(module, monkeypatch, folder):
    whole = {"case": 1, "kind": "speed", "model": "14B", "dtype": "fp8", "frames": 81}
    base = {**whole, "job": "1 speed", "card": None, "arguments": [], "ComfyUI": "0.33.0",
            "device": "a card", "steps": 4, "first step s": 9.0}  # fmt: skip
    rows = [
        {**base, "way": "stock", "step s": 6.0, "driver peak GB": 30.1},
        {**base, "way": "moga-5 sdpa", "step s": 4.0, "driver peak GB": 31.0},
        {**base, "way": "stock", "card": 12, "error": "OutOfMemoryError: CUDA out of memory"},
        {**base, "way": "stock", "card": 16, "error": "ValueError: something | else"},
        {**base, "case": 5, "kind": "features", "way": "interrupt", "moga-5": {"stopped": True}},
    ]
    text = module("_report").tables({"machine": {"device": "a card"}, "rows": rows})
    assert "| 14B | fp8 | 81 | stock | no | error | 6.00 s, 30.1 GB |" in text
    assert "| 14B | fp8 | 81 | moga-5 sdpa | - | - | 4.00 s, 31.0 GB |" in text
    assert "| 14B | fp8 | 81 | 6.00 | 1.50 x |" in text
    assert "moga-5: stopped True" in text and "something / else" in text
    assert "24 GB" not in text and "What failed" in text
    empty = module("_report").tables({"machine": {}, "rows": []})
    assert "|" not in empty


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")
def test_a_job_ends_with_all_that_it_began(module):
    script = "sleep 600 & echo $!; wait"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True,
                             start_new_session=True)  # fmt: skip
    grandchild = int(child.stdout.readline())
    os.kill(grandchild, 0)  # is there
    module("").end_all(child)
    assert child.returncode == -9
    assert child.stdout.read() == ""  # at its end, once nobody can write any more


@needs_comfyui
def test_a_quick_run_in_a_real_comfyui(tmp_path):
    """Stock beside MoGA in a process that boots ComfyUI; the rest of the list takes minutes."""
    path = tmp_path / "found.json"
    command = [sys.executable, str(FOLDER / "comfyui.py"), "--comfyui", str(COMFYUIS[0])]
    command += ["--device", "cpu", "--cases", "1", "--dtypes", "bf16", "--json", str(path)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["way"] for row in rows] == ["stock", "dense", "moga-5 sdpa", "moga-20 sdpa"]
    for row in rows:
        assert row["finite"] and row["steps"] == 2 and row["left bytes"] == 0, row
        assert row["first step s"] > 0 and row["step s"] > 0 and row["host peak GB"] > 0.1
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "0 jobs left" in again.stdout
