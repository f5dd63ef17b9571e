"""A training is worth more than its evaluation: the validation loss and films may fail."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import AS_LONG, equal, log, train, train_alone, weights

from moga.train import evaluation
from moga.train.evaluation import LOSS


def asking(project, *scripts):
    """Words for a film of each script after every third step."""
    for name in scripts:
        (project / f"{name}.txt").write_text("[5f] one\n[4f] two")
    paths = json.dumps([str(project / f"{name}.txt") for name in scripts])
    return [
        *("--validation.scripts", paths),
        *("--validation.every", "3", "--validation.steps", "2"),
    ]


def films(project):
    return sorted(path.name for path in (project / "training" / "films").glob("*"))


def failed(project):
    rows = log(project)
    return [(r["stage"], r["step"], r["failed"]) for r in rows if "failed" in r]


def checkpoints(project):
    return sorted(path.name for path in (project / "training" / "checkpoints").iterdir())


def settled(project, trained):
    """Whether a training ended as one whose evaluation found nothing wrong, but for rounding."""
    losses = [[row["loss"] for row in log(p) if "loss" in row] for p in (project, trained)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, other = weights(project), weights(trained)
    assert all(torch.allclose(one[key], other[key], rtol=1e-3, atol=1e-5) for key in other)
    assert not (project / "training" / "looking.json").exists()
    return True


def test_latents_that_are_not_numbers_are_no_film(project, trained, capsys, monkeypatch):
    """From the fifth video frame on, the second latent frame of three."""
    real = evaluation.sample

    def broken(film, *words):
        pipe, latents = real(film, *words)
        if film.name == "bad":
            latents[:, 3, 1] = float("nan")
        return pipe, latents

    monkeypatch.setattr(evaluation, "sample", broken)
    assert train(project, *asking(project, "bad", "good")) == 0
    steps = [(0, 3), (1, 3), (1, 6)]
    assert failed(project) == [(*at, "film bad") for at in steps]
    why = next(row["why"] for row in log(project) if "failed" in row)
    assert "is not a number or infinite, from frame 1 of 9 on, in 1 of 3 latent frames" in why
    assert films(project) == [f"0{stage}-0000000{step}-good.mp4" for stage, step in steps]
    said = capsys.readouterr().out
    assert "routers: the film bad of step 3 is left out: what the model samples is not" in said
    assert settled(project, trained)


def test_frames_that_are_not_numbers_are_no_film(project):
    """The whole way: a broken weight of the VAE that encoding does not use."""
    tensors = load_file(project / "vae.safetensors")
    tensors["decoder.conv_out.bias"] *= float("nan")
    (project / "vae.safetensors").unlink()
    save_file(tensors, project / "vae.safetensors")
    assert train(project, *asking(project, "look"), "--stages.1.steps", "1") == 0
    assert failed(project) == [(0, 3, "film look")] and films(project) == []
    assert "from video frame 0 on" in next(r["why"] for r in log(project) if "failed" in r)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("no room on the GPU"), "OutOfMemoryError: no room on the GPU"),
        (ValueError("a size"), "ValueError: a size"),
    ],
)
def test_a_film_that_fails_is_left_out(project, trained, capsys, monkeypatch, error, words):
    """The checkpoint of its step is there when it is begun."""
    seen = []

    def broken(*_):
        seen.append(checkpoints(project))
        raise error

    monkeypatch.setattr(evaluation, "sample", broken)
    assert train(project, *asking(project, "look")) == 0
    assert [row["why"] for row in log(project) if "failed" in row] == [words] * 3
    assert [names[-1] for names in seen] == ["00-00000003", "01-00000003", "01-00000006"]
    assert f"full: the film look of step 6 is left out: {words}" in capsys.readouterr().out
    assert settled(project, trained)


def test_what_cannot_be_written_is_left_out(project, trained, capsys):
    (project / "training").mkdir()
    (project / "training" / "films").write_text("in the way")
    assert train(project, *asking(project, "look")) == 0
    assert failed(project) == [(0, 3, "film look"), (1, 3, "film look"), (1, 6, "film look")]
    assert settled(project, trained)


def test_a_validation_loss_that_fails_is_left_out(project, trained, capsys):
    """Of the clips that are trained on none is broken, of those that are evaluated one."""
    shutil.copytree(trained / "cache", project / "cache")
    (project / "held.jsonl").write_text((project / "rows.jsonl").read_text())
    held = ["--data.validation_rows", str(project / "held.jsonl")]
    real = evaluation.FixedClips.loss
    broken = float("nan")

    def loss(self, *words, **options):
        drawn = self._drawn.collate
        self._drawn.collate = lambda clips: spoil(drawn(clips))
        try:
            return real(self, *words, **options)
        finally:
            self._drawn.collate = drawn

    def spoil(batch):
        if batch.sources[0].startswith("1.mp4"):
            batch.latents.mul_(broken)
        return batch

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation.FixedClips, "loss", loss)
        assert train(project, *held) == 0
    assert failed(project) == [(1, 0, LOSS), (1, 4, LOSS)]  # the first stage has shorter clips
    whys = {row["why"] for row in log(project) if "failed" in row}
    assert all("it is not a number or infinite on 1.mp4, line 2, 0.0 s" in why for why in whys)
    assert not any("NaN" in line for line in (project / "training/log.jsonl").open())
    assert settled(project, trained)


def dying(name, at):
    """Code that ends the process, with no chance to clean up, before an evaluation or within it."""
    return f"""
import os, signal
from moga.train.evaluation import Evaluation
evaluate = Evaluation.evaluate
def die(self, name, step, dit):
    if (name, self.index, step) == ({name!r}, 1, 3):
        if {at == "within"!r}:
            self._begin(name, step)
        os.kill(os.getpid(), signal.SIGKILL)
    evaluate(self, name, step, dit)
Evaluation.evaluate = die
"""


@pytest.fixture(scope="module")
def evaluated(files, tmp_path_factory):
    """A training that nothing disturbed, with films and a loss after the same steps."""
    from training_runs import furnish

    folder = furnish(tmp_path_factory.mktemp(AS_LONG.format("evaluated")), files)
    configure(folder)
    assert train_alone(folder) == 0
    return folder


def configure(folder):
    (folder / "look.txt").write_text("[5f] one\n[4f] two")
    text = (folder / "config.toml").read_text()
    more = '[validation]\nevery = 3\nsteps = 2\nscripts = ["look.txt"]\nloss_every = 3\n'
    text = text.replace("[validation]\nloss_every = 4\n", more)
    (folder / "config.toml").write_text(text)


@pytest.mark.parametrize(("name", "at"), [(LOSS, "before"), ("film look", "within")])
def test_an_evaluation_that_was_cut_off_is_done_again(project, evaluated, name, at):
    configure(project)
    assert train_alone(project, dying(name, at)) == -signal.SIGKILL
    assert checkpoints(project)[-1] == "01-00000003"
    assert train_alone(project) == 0
    assert log(project) == log(evaluated) and films(project) == films(evaluated)
    assert equal(weights(project), weights(evaluated))


def test_a_film_that_ends_the_process_does_not_end_every_restart(project, evaluated):
    configure(project)
    for _ in range(2):
        assert train_alone(project, dying("film look", "within")) == -signal.SIGKILL
    assert train_alone(project, dying("film look", "within")) == 0
    assert failed(project) == [(1, 3, "film look")]
    (why,) = [row["why"] for row in log(project) if "failed" in row]
    assert why == "it ended the training 2 times"
    assert [row for row in log(project) if "failed" not in row] == log(evaluated)
    assert equal(weights(project), weights(evaluated))
