"""MoGAConfig: what is accepted, and the round trip through a file header."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga import layout
from moga.config import BRANCHES, COMBINES, ConfigError, MoGAConfig
from moga.layout import VideoLayout

positions = st.integers(1, 1024)
configs = st.builds(
    MoGAConfig,
    groups=st.integers(1, 256),
    windows=st.tuples(positions, positions),
    window_frames=positions,
    boundary_frames=st.integers(0, 1024),
    gate=st.booleans(),
    combine=st.sampled_from(COMBINES),
    branches=st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True).map(tuple),
)


def test_defaults_are_the_papers():
    config = MoGAConfig()
    assert (config.groups, config.windows, config.window_frames) == (5, (2, 2), 10)
    assert (config.boundary_frames, config.gate, config.combine) == (2, True, "union")
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
        ({"windows": (2, 0)}, "windows is 0; give a whole number from 1 to 1024."),
        ({"windows": (10**9, 10**9)}, "windows is 1000000000; give a whole number from 1 to 1024."),
        ({"windows": (2, 2.0)}, "windows is 2.0"),
        ({"windows": (True, 2)}, "windows is True"),
        ({"windows": {1: 2, 3: 4}}, "windows is {1: 2, 3: 4}; give two whole numbers"),
        ({"window_frames": 0}, "window_frames is 0"),
        ({"window_frames": 1025}, "window_frames is 1025; give a whole number from 1 to 1024."),
        ({"window_frames": False}, "window_frames is False"),
        ({"boundary_frames": -1}, "boundary_frames is -1"),
        (
            {"boundary_frames": 10**9},
            "boundary_frames is 1000000000; give a whole number from 0",
        ),
        ({"boundary_frames": 1e300}, "boundary_frames is 1e+300"),
        ({"gate": "yes"}, "gate is 'yes'; give true or false."),
        ({"combine": "sum"}, "combine is 'sum'; choose one of union, mean."),
        ({"branches": ()}, "branches is ()"),
        ({"branches": ("routed", "routed")}, "name each branch once"),
        ({"branches": ("routed", "global")}, "branches names 'global'"),
        ({"branches": ([1], {})}, "branches names [1]"),
        ({"branches": "routed"}, "branches is 'routed'; name each branch once"),
        ({"combine": ["mean"]}, "combine is ['mean']"),
        ({"gate": 1}, "gate is 1"),
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
        ("{}", "version None; expected 2"),
        ('{"version": 3}', "version 3 and this ComfyUI-MoGA reads up to 2; update ComfyUI-MoGA."),
        ('{"version": true}', "version True"),
        ('{"version": 1, "heads": 3}', "unknown setting 'heads'"),
        ('{"version": 1, "groups": "5"}', "groups is '5'"),
        ('{"version": 1.0}', "version 1.0"),
        ('{"version": 1, "combine": "lse"}', "combine 'lse', which this ComfyUI-MoGA no longer"),
        ('{"version": 2, "combine": "lse"}', "combine is 'lse'; choose one of union, mean."),
        ('{"version": NaN}', "version nan"),
        ('{"version": 1, "windows": [1000000000, 1000000000]}', "windows is 1000000000"),
        ('{"version": 1, "windows": null}', "windows is None"),
        ("[" * 100_000, "is not JSON"),
        ('{"version": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"version": ' + "9" * 4000 + "}", "update ComfyUI-MoGA"),
        ('{"version": 1, "combine": "' + "x" * 9000 + '"}', "choose one of union, mean."),
    ],
)
def test_refused_metadata(text, words):
    with pytest.raises(ConfigError) as error:
        MoGAConfig.from_json(text)
    assert words in str(error.value)
    assert len(str(error.value)) < 200


def test_json_is_versioned():
    assert json.loads(MoGAConfig().to_json())["version"] == 2


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
names = st.sampled_from(list(json.loads(MoGAConfig().to_json())))


@given(st.dictionaries(names, values, max_size=3))
def test_any_metadata_is_settings_or_one_sentence(changes):
    text = json.dumps({**json.loads(MoGAConfig().to_json()), **changes})
    try:
        assert MoGAConfig.from_json(MoGAConfig.from_json(text).to_json()).groups <= 256
    except ConfigError as error:
        assert "\n" not in str(error)


@given(configs, st.tuples(*[st.integers(1, 6)] * 3), st.sets(st.integers(1, 5), max_size=2))
def test_windows_take_work_by_the_grid_and_not_by_the_settings(config, grid, cuts):
    """However many are asked for: as many steps as the grid has tokens, times a small number."""
    shape = VideoLayout(*grid, (0, *(cut for cut in sorted(cuts) if cut < grid[0])))
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count if frame.f_code.co_filename == layout.__file__ else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        found = layout.windows.__wrapped__(shape, config)
    finally:
        sys.settrace(before)
    assert len(found) <= shape.tokens
    assert lines <= 100 + 40 * shape.tokens


def test_a_file_of_version_1_is_what_it_says_or_what_it_could_only_be():
    assert MoGAConfig.from_json('{"version": 1}').combine == "mean"
    assert MoGAConfig.from_json('{"version": 1, "combine": "mean"}').combine == "mean"
    assert MoGAConfig.from_json('{"version": 2}').combine == "union"
