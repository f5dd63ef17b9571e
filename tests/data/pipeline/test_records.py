"""Records of the data pipeline and their JSON."""

import collections.abc
import dataclasses
import json
import typing
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moga.data.pipeline.records import (
    Boundary,
    Box,
    Film,
    RecordError,
    Sample,
    Shot,
    Source,
    dumps,
    from_json,
    loads,
    to_json,
)

# Names of files that are not UTF-8 are text with lone surrogates.
LEAVES = {
    str: st.text(st.characters(codec=None), max_size=9),
    float: st.floats(allow_nan=False, allow_infinity=False),
    int: st.integers(),
    bool: st.booleans(),
    Fraction: st.fractions(),
    type(None): st.none(),
}


def of(kind):
    """Every value of a type that records are made of."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in LEAVES:
        return LEAVES[kind]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: of(hint) for name, hint in hints.items()})
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(of(inner[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of, inner))
    if origin is collections.abc.Mapping:
        return st.dictionaries(*map(of, inner), max_size=2)
    return st.one_of(*map(of, inner))


KINDS = (Film, Sample, Source, Shot)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_json_and_back_is_the_same_record(kind, data):
    record = data.draw(of(kind))
    text = dumps(record)
    assert loads(kind, text) == record
    assert text.isascii() and "\n" not in text
    assert dumps(loads(kind, text)) == text


@given(data=st.data())
def test_what_is_no_record_is_refused_in_words(data):
    """Any one value of a record replaced by something of another type."""
    sample = to_json(data.draw(of(Sample)))
    name = data.draw(st.sampled_from(sorted(sample)))
    wrong = data.draw(st.sampled_from([{"a": 1}, [1], 1.5, ["b", {}]]))
    with pytest.raises(RecordError, match=r"is no Sample \(.*\); delete it"):
        from_json(Sample, {**sample, name: wrong})
    with pytest.raises(RecordError, match="'colour'"):
        from_json(Sample, {**sample, "colour": 1})


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"id": 1}', "[" * 99999])
def test_torn_json_is_refused_in_words(text):
    with pytest.raises(RecordError, match="delete it to have it made"):
        loads(Source, text)


def test_a_number_that_json_has_not_is_never_written():
    with pytest.raises(ValueError):
        dumps(Source("a", "/a", "a", scores={"clarity": float("nan")}))


def test_lengths_follow_from_frames():
    source = Source("a", "/a.mp4", "a.mp4", fps="25", frames=0)
    assert replace(source, fps=0).seconds == 0
    cut = Boundary("cut", 30, 30)
    shot = Shot("a-0", "a", 0, 30, 75, cut, cut, crop=Box(0, 0, 2, 2))
    assert shot.frames == 45
    assert json.loads(dumps(shot))["crop"] == {"x": 0, "y": 0, "width": 2, "height": 2}
