"""What a training's state is on disk, for one process; for several see test_parallel.py."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moga.train.optimizers import names_of, set_state, state_of
from moga.train.state import StoredState, write_state

TYPES = [torch.float32, torch.bfloat16, torch.uint8, torch.int64]
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(
    lambda shape, kind: (torch.rand(shape) * 9).to(kind), shapes, st.sampled_from(TYPES)
)


@given(state=st.dictionaries(st.sampled_from("abcdef"), tensors | st.integers(0, 9), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_tensors_of_any_kind_and_numbers(tmp_path, state):
    """Numbers are what an optimizer of 8 bits counts its steps in."""
    write_state(tmp_path, state)
    stored = StoredState(tmp_path)
    assert set(stored.names()) == set(state) and stored.absent() == []
    read = {name: stored.like(name, torch.empty(0)) for name in state}
    stored.read(read)
    for name, value in state.items():
        if isinstance(value, int):
            assert read[name] == value
        else:
            assert read[name].dtype == value.dtype and torch.equal(read[name], value)


def test_a_file_that_another_machine_has(tmp_path):
    write_state(tmp_path, {"a": torch.ones(3)})
    (part,) = (tmp_path / "state").glob("*.distcp")
    part.unlink()
    assert StoredState(tmp_path).absent() == [part.name]


def test_an_optimizer_goes_on(tmp_path):
    """Its groups in another order than the model's weights, one weight without a gradient yet."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2) for name in ("a", "b", "c")})
    named = dict(model.named_parameters())

    def optimizer():
        groups = [{"params": [named["b.weight"], named["c.bias"]], "lr": 0.5}]
        groups += [{"params": [p for name, p in named.items() if name[0] == "a"], "lr": 0.1}]
        return torch.optim.AdamW(groups)

    first = optimizer()
    (model["b"](torch.rand(4, 3)).sum() + model["a"](torch.rand(4, 3)).sum()).backward()
    first.step()
    names = names_of(first, named)
    assert names == ["b.weight", "c.bias", "a.weight", "a.bias"]
    held = state_of(first, names)
    assert "c.bias.step" not in held and held["a.bias.step"] == 1
    second = optimizer()
    set_state(second, names_of(second, named), held)
    assert [group["lr"] for group in second.param_groups] == [0.5, 0.1]
    again = state_of(second, names)
    assert again.keys() == held.keys()
    assert all(torch.equal(again[name], held[name]) for name in held)
