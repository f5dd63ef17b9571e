"""MoGAConfig: what is accepted, and the round trip through a file header."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.config import BRANCHES, COMBINES, ConfigError, MoGAConfig

configs = st.builds(
    MoGAConfig,
    groups=st.integers(1, 256),
    windows=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window_frames=st.integers(1, 99),
    boundary_frames=st.integers(0, 9),
    gate=st.booleans(),
    combine=st.sampled_from(COMBINES),
    branches=st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True).map(tuple),
)


def test_defaults_are_the_papers():
    config = MoGAConfig()
    assert (config.groups, config.windows, config.window_frames) == (5, (2, 2), 10)
    assert (config.boundary_frames, config.gate, config.combine) == (2, True, "mean")
    assert config.branches == ("routed", "windows", "frames")


@given(configs)
def test_json_round_trip(config):
    assert MoGAConfig.from_json(config.to_json()) == config


def test_branches_have_one_order():
    assert MoGAConfig(branches=("frames", "routed")) == MoGAConfig(branches=("routed", "frames"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"groups": 0}, "groups is 0; give a whole number from 1 to 256."),
        ({"groups": 2.0}, "groups is 2.0"),
        ({"groups": True}, "groups is True"),
        ({"windows": (2,)}, "windows is (2,); give two whole numbers"),
        ({"windows": (2, 0)}, "windows is 0; give a whole number of at least 1."),
        ({"window_frames": 0}, "window_frames is 0"),
        ({"boundary_frames": -1}, "boundary_frames is -1"),
        ({"gate": "yes"}, "gate is 'yes'; give true or false."),
        ({"combine": "sum"}, "combine is 'sum'; choose one of mean, lse."),
        ({"branches": ()}, "branches is ()"),
        ({"branches": ("routed", "routed")}, "name each branch once"),
        ({"branches": ("routed", "global")}, "branches names 'global'"),
    ],
)
def test_refused_values_name_field_value_and_fix(values, words):
    with pytest.raises(ConfigError) as error:
        MoGAConfig(**values)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "version None; expected 1"),
        ('{"version": 2}', "version 2 and this ComfyUI-MoGA reads up to 1; update ComfyUI-MoGA."),
        ('{"version": true}', "version True"),
        ('{"version": 1, "heads": 3}', "unknown setting 'heads'"),
        ('{"version": 1, "groups": "5"}', "groups is '5'"),
    ],
)
def test_refused_metadata(text, words):
    with pytest.raises(ConfigError) as error:
        MoGAConfig.from_json(text)
    assert words in str(error.value)


def test_json_is_versioned():
    assert json.loads(MoGAConfig().to_json())["version"] == 1
