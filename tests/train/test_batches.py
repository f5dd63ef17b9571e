"""What each step trains on, as a function of its number."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moga.train.batches import BatchOrder, Clips, batches, padded
from moga.train.ranks import Ranks
from moga.train.settings import Stage

GRIDS = [(1, 2, 2, 2), (1, 3, 2, 2)]
CUTS = [(0,), (0, 1)]
clip = st.builds(SimpleNamespace, shape=st.sampled_from(GRIDS), starts=st.sampled_from(CUTS))


@given(
    clips=st.lists(clip, min_size=1, max_size=12), batch=st.integers(1, 4), seed=st.integers(0, 9)
)
def test_an_epoch_has_every_clip_once_among_its_like(clips, batch, seed):
    order = BatchOrder(clips, batch, seed)
    for epoch in range(3):
        dealt = [order[epoch * order.per_epoch + i] for i in range(order.per_epoch)]
        assert Counter(clip for one in dealt for clip, _ in one) == Counter(range(len(clips)))
        for one in dealt:
            assert len(one) <= batch
            assert len({(clips[i].shape, clips[i].starts) for i, _ in one}) == 1


@given(
    clips=st.lists(clip, min_size=1, max_size=12),
    batch=st.integers(1, 4),
    number=st.integers(0, 40),
)
def test_a_batch_depends_on_its_number_alone(clips, batch, number):
    one, other = BatchOrder(clips, batch, 7), BatchOrder(clips, batch, 7)
    for earlier in range(number):
        one[earlier]
    assert one[number] == other[number]


@given(clips=st.lists(clip, min_size=1, max_size=12), batch=st.integers(1, 4))
def test_no_two_draws_share_their_noise(clips, batch):
    order = BatchOrder(clips, batch, 0)
    draws = [draw for number in range(3 * order.per_epoch) for _, draw in order[number]]
    assert len(set(draws)) == len(draws)


@given(
    groups=st.integers(1, 4),
    sequence=st.integers(1, 3),
    accumulate=st.integers(1, 3),
    done=st.integers(0, 5),
    steps=st.integers(1, 4),
)
def test_processes_divide_the_same_steps(groups, sequence, accumulate, done, steps):
    """Those that share a clip read the same, the others what is left, step by step."""
    processes, numbers = groups * sequence, {}
    each = groups * accumulate
    stage = Stage(steps=9, seconds=1, forwards=each)
    order = BatchOrder([SimpleNamespace(shape=GRIDS[0], starts=(0,))], 1, 0)
    for rank in range(processes):
        ranks = Ranks(rank, processes, sequence)
        assert (ranks.forwards(stage), ranks.accumulate(stage)) == (each, accumulate)
        loader = batches(
            Clips(order.clips, None, 1, (0,)), order,
            first=done * each, count=steps * each, rank=ranks.group, ranks=ranks.groups,
        )  # fmt: skip
        own = [number for ((_, number),) in loader.batch_sampler]  # a draw's is its batch's here
        numbers.setdefault(ranks.group, own)
        assert own == numbers[ranks.group] and len(own) == steps * accumulate
    for step in range(steps):
        part = slice(step * accumulate, (step + 1) * accumulate)
        read = sorted(number for own in numbers.values() for number in own[part])
        assert read == list(range((done + step) * each, (done + step + 1) * each))


def test_epochs_and_seeds_differ():
    clips = [SimpleNamespace(shape=GRIDS[0], starts=(0,)) for _ in range(12)]
    orders = {
        tuple(order[epoch * 12 + i][0][0] for i in range(12))
        for order in (BatchOrder(clips, 1, 0), BatchOrder(clips, 1, 1))
        for epoch in range(2)
    }
    assert len(orders) == 4


@given(tokens=st.integers(0, 6), room=st.integers(0, 3))
def test_text_is_padded_with_zeros(tokens, room):
    text = torch.ones(tokens, 3)
    found = padded(text, tokens + room)
    assert found.shape == (tokens + room, 3)
    assert found[:tokens].all() and not found[tokens:].any()


def test_text_that_does_not_fit():
    with pytest.raises(ValueError, match="a text has 4 tokens and data"):
        padded(torch.ones(4, 3), 3)
