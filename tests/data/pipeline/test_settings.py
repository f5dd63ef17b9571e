"""Settings of the data pipeline."""

from pathlib import Path

import pytest

from moga.data.pipeline.settings import PATHS, Settings, read_settings
from moga.toml_settings import SettingsError, names

FILE = """
[probe]
aesthetic = "own.pt"
[score]
clarity_least = 0.2
[[sources]]
match = "phone/*"
score.clarity_least = 0.1
[[sources]]
match = "*.mov"
score.drop_still = true
split.weights = "auto.pt"
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "data.toml"
    path.write_text(FILE)
    return path


def test_every_film_has_the_values_of_its_globs(config):
    settings = read_settings(config, ["--split.learned", "never"])
    plain, phone, both = (settings.of(x) for x in ("a.mp4", "phone/a.mp4", "phone/b.mov"))
    assert [x.score.clarity_least for x in (plain, phone, both)] == [0.2, 0.1, 0.1]
    assert [x.score.drop_still for x in (plain, phone, both)] == [False, False, True]
    assert both.split.weights == config.parent / "auto.pt"
    assert {x.split.learned for x in (plain, phone, both)} == {"never"}
    assert plain.probe.aesthetic == config.parent / "own.pt"
    assert settings.of("a.mp4") == plain and plain.of("phone/b.mov") == plain


def test_without_a_file_there_are_defaults():
    assert read_settings(None) == Settings() == Settings().of("anything")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--score.clarity", "1"], "score.clarity is no setting; did you mean score.clarity_least"),
        (["--splt.learned", "never"], "splt is no setting; did you mean split"),
        (["--sources", '[{match = "*", score.drop_stil = 1}]'],
         "sources.0.score.drop_stil is no setting; did you mean sources.0.score.drop_still"),
        (["--split.learned", "sometimes"], "split.learned is 'sometimes'"),
        (["--crop.aspect", "wide"], "crop.aspect"),
        (["--merge.fps", "0"], "merge.fps is 0"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_the_nearest_one(words, said):
    with pytest.raises(SettingsError) as caught:
        read_settings(None, words)
    assert said in str(caught.value)


def test_settings_that_are_paths_are_those_relative_to_the_file():
    found = {n for n, f in names(Settings).items() if "Path" in str(f.annotation)}
    assert {n for n in found if not n.startswith("sources")} == set(PATHS)
    assert Path not in {type(x) for x in Settings().model_dump(mode="json").values()}
