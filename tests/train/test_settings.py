"""Settings of a training, from TOML and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.toml_settings import names
from moga.train.read_settings import SettingsError, read_settings
from moga.train.settings import Settings
from moga.train.validation import script_texts

RECIPES = Path(__file__).parents[2] / "recipes"
BASE = """
[data]
rows = "rows.jsonl"
vae = "vae.safetensors"
text_encoder = "umt5.safetensors"
[model]
file = "wan.safetensors"
[[stages]]
name = "first"
steps = 5
seconds = 2
"""
LEAVES = [name for name in names(Settings) if not name.startswith("model.scratch")]


@pytest.mark.parametrize("missing", ["pydantic", "diffusers", "accelerate"])
def test_a_missing_extra_is_named(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from moga.train import main; main(['x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'{missing}; run `pip install -e ".[train]"`' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(BASE)
    return path


def read_text(tmp_path, text, *words):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return read_settings(path, words)


def test_paths_are_relative_to_the_file(config):
    settings = read_settings(config)
    assert settings.data.rows == config.parent / "rows.jsonl"
    assert settings.data.cache == config.parent / "cache"
    assert settings.save.folder == config.parent / "training"


def test_words_win_over_the_file(config):
    words = ["--stages.0.lr", "3e-4", "--moga.windows", "[1, 2]", "--stages.0.name=late"]
    settings = read_settings(config, words)
    (stage,) = settings.stages
    assert (stage.lr, stage.steps, stage.name) == (3e-4, 5, "late")
    assert settings.moga.config(stage).windows == (1, 2)


@pytest.mark.parametrize("word", ["2026-11-24", "nan", "10", "1.50", "true", "[1", '["a"', "0x1f"])
def test_a_text_may_look_like_a_number(config, word):
    """TOML has another reading of most of these, which is not meant where a text is wanted."""
    words = ["--save.folder", word, "--model.routers", word, "--log.project", word]
    words += ["--validation.scripts", '["look.txt"]', "--validation.scripts.0", word]
    settings = read_settings(config, words)
    assert (settings.save.folder, settings.model.routers) == (Path(word), Path(word))
    assert (settings.log.project, settings.validation.scripts) == (word, (Path(word),))
    assert read_settings(config, ["--stages.0.name", "1.50"]).stages[0].name == "1.50"
    assert read_settings(config, ["--save.folder", '"10"']).save.folder == Path("10")


def test_a_list_is_no_text(config):
    with pytest.raises(SettingsError, match=r"save.folder is \['a'\]: input is not a valid path"):
        read_settings(config, ["--save.folder", '["a"]'])


@given(data=st.data())
def test_a_misspelt_name_is_answered_with_the_right_one(tmp_path_factory, data):
    name = data.draw(st.sampled_from(LEAVES))
    last = name.rpartition(".")[2]
    at = data.draw(st.integers(0, len(last) - 1))
    wrong = name[: len(name) - len(last)] + last[:at] + "q" + last[at:]
    folder = tmp_path_factory.mktemp("settings")
    with pytest.raises(SettingsError) as caught:
        read_text(folder, BASE, f"--{wrong}", "1")
    (line,) = [line for line in str(caught.value).splitlines() if "is no setting" in line]
    assert line.startswith(f"{wrong} is no setting; did you mean ")
    assert name in line


def test_all_wrong_settings_are_named_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read_text(tmp_path, BASE, "--seed", "x", "--lr", "1", "--stages.0.steps", "0")
    text = str(caught.value)
    assert "seed is 'x'" in text and "stages.0.steps is 0" in text
    assert "lr is no setting; did you mean stages.0.lr?" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (("[model]", "[modle]"), [], "modle is no setting; did you mean model"),
        (('file = "wan.safetensors"', ""), [], "give either model.file, or model.scratch"),
        (("seconds = 2", ""), [], "stages.0.seconds is missing"),
        (("[[stages]]", "[stages]"), [], "stages is"),
        (("steps", "steps ="), [], "is not TOML"),
        (("", ""), ["--validation.every", "5"], "name their scripts in validation.scripts"),
        (("", ""), ["--validation.loss_every", "5"], "set data.validation_rows"),
        (("", ""), ["--optimizer.betas", "[0.9, 1.0]"], "betas.1 is 1.0: input should be less"),
        (("", ""), ["--data.fps", "2000"], "data.fps is 2000: input should be less than or equal"),
        (("", ""), ["--lora.targets", "[]"], "lora.targets is []: tuple should have at least 1"),
        (
            ("", ""),
            ["--optimizer.schedule", "constant", "--optimizer.warmup", "5"],
            "optimizer: warmup is 5, which the schedule 'constant' has none of",
        ),
        (("", ""), ["--stages.3.steps", "5"], "give a number below 1"),
        (("", ""), ["--seed"], "--seed has no value"),
        (("", ""), ["seed", "1"], "'seed' stands alone"),
        (("", ""), ["--seed.x", "1"], "seed is {'x': 1}: input should be a valid integer"),
        (
            ("", ""),
            ["--model.attention", "dense", "--stages.0.train", "routers"],
            "trains routers, but there are none",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, change, words, message):
    with pytest.raises(SettingsError) as caught:
        read_text(tmp_path, BASE.replace(*change), *words)
    assert message in str(caught.value)


def test_two_stages_of_one_name(tmp_path):
    twice = BASE + BASE[BASE.index("[[stages]]") :]
    with pytest.raises(SettingsError, match="two stages are named 'first'"):
        read_text(tmp_path, twice)


def test_what_a_checkpoint_is_bound_to(config):
    settings = read_settings(config)
    same = read_settings(config, ["--save.keep_last", "9", "--workers", "7"])
    other = read_settings(config, ["--stages.0.lr", "1"])
    assert settings.for_resume() == same.for_resume() != other.for_resume()


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_are_settings(path):
    assert read_settings(path).stages


def test_films_have_their_scripts_negative_unless_one_is_set(config):
    (config.parent / "with.txt").write_text("negative: blurry\n[5f] one", encoding="utf-8")
    (config.parent / "without.txt").write_text("[5f] two", encoding="utf-8")
    scripts = json.dumps([str(config.parent / name) for name in ("with.txt", "without.txt")])
    words = ["--validation.scripts", scripts]
    assert script_texts(read_settings(config, words)) == ["one", "blurry", "two", ""]
    set_here = read_settings(config, [*words, "--validation.negative", "dark"])
    assert script_texts(set_here) == ["one", "dark", "two", "dark"]
