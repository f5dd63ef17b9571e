"""`python -m moga.plan` as people use it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moga.config import MoGAConfig
from moga.plan.cli import main

ROOT = Path(__file__).parents[2]


def run(capsys, *words):
    status = main(list(words))
    said = capsys.readouterr()
    return status, said.out, said.err


def as_json(capsys, *words):
    status, out, _ = run(capsys, *words, "--json")
    return status, json.loads(out)


def test_the_command_of_the_issue(capsys):
    words = ["--model", "14B", "--seconds", "60", "--fps", "24", "--gpus", "64", "--card", "h100"]
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    for said in ("563,160 tokens", "64 x h100", "GENERATING", "TRAINING", "memory of a card",
                 "where a step's time goes", "over the wire", "measured: benchmarks/results",
                 "measured: 230 GB/s", "assumed: 40 GB/s", "computed:"):  # fmt: skip
        assert said in out
    assert max(map(len, out.splitlines())) < 130


def test_it_starts_without_torch():
    code = (
        "import sys; from moga.plan.cli import main; main(['--gpus', '8']); "
        "print(sorted({'torch', 'numpy', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_has_enough_is_no_error():
    code = "from moga.plan.cli import main; import sys; sys.exit(main(['--table', 'markdown']))"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == (b"", 0)
    child.stderr.close()


def test_json_has_what_the_text_says(capsys):
    words = ("--model", "1.3B", "--seconds", "30", "--gpus", "8", "--ema", "--clips", "16")
    status, data = as_json(capsys, *words)
    assert status == 0 and data["tokens"] == 188_760 and data["cards"] == 8
    for kind in ("generation", "training"):
        found = data[kind]
        assert found["step"] == pytest.approx(sum(found["seconds"].values()))
        assert sum(found["memory"].values()) <= found["room"]
        assert found["fits"] and found["fits_on"] == 8
    assert data["generation"]["film"] == pytest.approx(30 * data["generation"]["step"])
    assert "average of weights" in data["training"]["memory"]
    assert data["training"]["clips"] == 16


def test_one_card_sends_nothing(capsys):
    status, data = as_json(capsys, "--model", "1.3B", "--seconds", "10")
    assert status == 0
    assert data["generation"]["wire"] == data["training"]["wire"] == {}
    assert "over the wire: nothing" in run(capsys, "--model", "1.3B", "--seconds", "10")[1]


def test_what_does_not_fit_is_said_and_is_a_status_of_its_own(capsys):
    status, out, _ = run(capsys, "--model", "14B", "--what", "training")
    assert status == 1 and "DOES NOT FIT" in out and "It fits on" in out
    status, out, _ = run(capsys, "--model", "14B", "--what", "generation", "--card", "4090")
    assert status == 1 and "take a card with more memory" in out


@pytest.mark.parametrize(
    "more",
    ["", "--attention dense", "--train lora", "--train lora --checkpointing offload",
     "--checkpointing none", "--host-weights", "--cfg 1", "--card h200", "--card a100",
     "--backend sdpa", "--sequence 5", "--shard 4", "--shard 1", "--combine mean",
     "--groups 20 --windows 4x4", "--uneven 2", "--model 5B --size 1280x704 --fps 24",
     "--host-cards 4 --link 100", "--shots 6"],
)  # fmt: skip
def test_each_option_is_planned(capsys, more):
    words = ["--model", "1.3B", "--seconds", "5", "--gpus", "8", *more.split()]
    status, out, err = run(capsys, *words)
    assert status in (0, 1) and err == "" and "What this rests on" in out


def test_weights_in_the_hosts_memory_make_room(capsys):
    words = ["--model", "14B", "--gpus", "4", "--what", "training", "--clips", "4"]
    assert run(capsys, *words)[0] == 1
    status, out, _ = run(capsys, *words, "--host-weights")
    assert status == 0 and "weights in the host's memory" in out and "  of each host   " in out
    assert "measured: 26 GB/s of a host's memory" in out
    data = as_json(capsys, *words, "--host-weights")[1]["training"]
    assert data["arrangement"]["shard"] == 4 and data["host_memory"] > 200e9
    assert "weights" not in data["memory"] and data["seconds"]["optimizer"] > 1
    assert data["seconds"]["gradients added in the host's memory"] > 3  # of three more clips
    words = ["--model", "1.3B", "--seconds", "1", "--what", "training", "--clips", "1"]
    for cards in ("2", "4"):  # of which one would do, but for where the weights are to be
        _, out, _ = run(capsys, *words, "--gpus", cards, "--host-weights")
        assert "weights split over" in out and " on 1" not in out


def test_other_cards_say_what_is_assumed_of_them(capsys):
    _, out, _ = run(capsys, "--model", "1.3B", "--seconds", "5", "--card", "a100")
    assert "assumed: an H100's rates with PyTorch alone, times 0.32 in arithmetic" in out
    assert "measured: benchmarks" not in out


def test_a_config_of_a_checkpoint(capsys, tmp_path):
    path = tmp_path / "moga.json"
    path.write_text(MoGAConfig(groups=8, windows=(3, 3), combine="mean").to_json())
    _, out, _ = run(capsys, "--moga", str(path), "--what", "generation")
    assert "8 groups and 3x3 windows (mean)" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model 7B", "--model is '7B'; choose one of 1.3B, 5B, 14B."),
        ("--card h300", "--card is 'h300'; choose one of h100"),
        ("--gpus 0", "--gpus is 0; give 1 to 65,536."),
        ("--gpus 64 --sequence 41", "14B has 40 heads"),
        ("--model 1.3B --gpus 64 --sequence 13", "1.3B has 12 heads"),
        ("--gpus 9 --sequence 9 --size 16x16 --seconds 0.1", "more than the 1 tokens"),
        ("--gpus 4 --sequence 9", "more than the 4 of --gpus"),
        ("--gpus 8 --sequence 8 --shard 3", "--shard has to divide the cards that have work"),
        ("--size 830x480", "multiple of 16, such as 832"),
        ("--size big", "--size is 'big'; give width and height"),
        ("--seconds 0", "seconds is 0.0; give a number above 0."),
        ("--seconds 9999", "--seconds makes"),
        ("--fps 0", "frames per second"),
        ("--shots 0", "--shots is 0; give 1 to 121"),
        ("--card 4090 --backend flash3", "for 4090 give sdpa"),
        ("--windows 2", "rows and columns"),
        ("--windows 0x2", "windows is 0"),
        ("--groups 300", "groups is 300"),
        ("--attention dense --groups 5", "--groups is of MoGA"),
        ("--moga nowhere.json", "nowhere.json: No such file or directory."),
        ("--moga {bad}", "is not JSON"),
        ("--moga {bad} --groups 5", "leave one of them out"),
        ("--link 0", "--link is 0; give GB/s above 0."),
        (
            "--attention dense --backend flash3",
            "--backend is flash3, and --attention dense, which "
            "is the host's own, of PyTorch; leave --backend out.",
        ),
        ("--network -1", "--network is -1"),
        ("--latency nan", "--latency is nan"),
        ("--host-cards 0", "--host-cards is 0"),
        ("--uneven 0.5", "--uneven is 0.5"),
        ("--cfg nan", "--cfg is nan"),
        ("--clips 0", "--clips is 0"),
        ("--steps 0", "--steps is 0"),
        ("--train lora --rank 0", "--rank is 0"),
        ("--rank 8", "--rank changes nothing, as --train is full; leave it out."),
        ("--what generation --ema", "--ema changes nothing, as --what is generation"),
        ("--what training --cfg 1", "--cfg changes nothing, as --what is training"),
        (
            "--host-weights",
            "--host-weights is of weights that are split over cards, and --gpus is 1;",
        ),
        ("--gpus 4 --shard 1 --host-weights", "split over cards, and --shard is 1; give more"),
        ("--gpus 4 --sequence 1 --clips 1 --host-weights", "--host-weights needs two of them"),
        ("--gpus 4 --host-weights --optimizer adamw8bit", "adamw8bit, which needs whole weights"),
        ("--gpus 4 --shard 4 --optimizer adamw8bit", "give adamw, or leave --shard out."),
        ("--what generation --host-weights", "--host-weights changes nothing, as --what is gen"),
        ("--table markdown --model 1.3B", "--model changes nothing, as the tables"),
        ("--table markdown --json", "--json changes nothing"),
    ],
)
def test_a_bad_request_is_one_sentence(capsys, tmp_path, words, said):
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    status, out, err = run(capsys, *words.format(bad=bad).split())
    assert (status, out) == (2, "")
    assert said in err and err.startswith("moga.plan: ") and len(err.splitlines()) == 1


def test_the_tables_of_the_docs_are_what_the_command_prints(capsys):
    status, out, _ = run(capsys, "--table", "markdown")
    assert status == 0
    page = (ROOT / "docs" / "planner.md").read_text(encoding="utf-8")
    assert out in page, "run `python -m moga.plan --table markdown` and put it into docs/planner.md"


@pytest.mark.parametrize("film", ["--model 1.3B", "--model 14B", "--model 14B --seconds 60 "
                                  "--fps 24 --groups 20 --windows 4x4"])  # fmt: skip
def test_the_exchange_takes_what_the_docs_say(capsys, film):
    for cards, least, most in ((4, 3, 6), (8, 3, 6), (16, 3, 6), (32, 14, 28), (64, 14, 28)):
        words = [*film.split(), "--what", "generation", "--gpus", str(cards)]
        found = as_json(capsys, *words)[1]["generation"]
        share = 100 * found["seconds"]["all-to-all of q, k, v, o"] / found["step"]
        assert least <= round(share) <= most


def test_the_tables_go_from_1_to_1024_cards(capsys):
    _, out, _ = run(capsys, "--table", "markdown")
    for title in ("1.3B, 30 s", "1.3B, 60 s", "14B, 30 s", "14B, 60 s"):
        section = out.partition(f"### {title}")[2].partition("###")[0]
        assert section.count("| 1 |") == section.count("| 1,024 |") == 2
        assert "held back by" in section
