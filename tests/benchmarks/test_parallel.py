"""The benchmark of several GPUs, at a size for a CPU."""

import json
from pathlib import Path

from torchrun import launch

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "parallel.py"


def test_every_kind_of_case_is_measured_against_one_process(tmp_path):
    out = tmp_path / "parallel.json"
    words = [str(BENCHMARK), "--tiny", "--repeats", "1", "--groups", "0", "5", "--json", str(out)]
    run = launch(2, *words)
    assert run.returncode == 0, run.stderr
    runs = json.loads(out.read_text())["runs"]
    cases = [(run["case"]["what"], run["case"]["groups"], run["case"]["ranks"]) for run in runs]
    both = [("layer", 5), ("forward", 0), ("forward", 5), ("training", 0), ("training", 5)]
    assert cases == [(*case, ranks) for case in both for ranks in (1, 2)]
    shared = [run for run in runs if run["case"]["ranks"] == 2]
    assert all(run["ms"] > 0 and run["efficiency"] > 0 for run in shared)
    assert {"attention_ms", "exchange_ms", "gather_ms"} <= set(shared[0])
    goes_on(out, words, runs)


def goes_on(out, words, runs):
    """With the file: its runs stay, and what they ran on; another card's are refused, once."""
    found = json.loads(out.read_text())
    found["machine"]["date"] = "2020-01-01"
    found["runs"] = runs[:-1]
    out.write_text(json.dumps(found))
    more = [*words, "--what", "training"]
    assert launch(2, *more).returncode == 0
    after = json.loads(out.read_text())
    assert after["runs"][:-1] == runs[:-1] and after["runs"][-1]["case"] == runs[-1]["case"]
    ran = [f"python {' '.join(command)}" for command in (words, more)]
    assert after["machine"] == found["machine"] | {"command": "; ".join(ran)}
    found["machine"]["device"] = "another card"
    out.write_text(json.dumps(found))
    refused = launch(2, *words)
    assert refused.returncode != 0 and refused.stderr.count("which has times of another card") == 1
    assert json.loads(out.read_text()) == found
