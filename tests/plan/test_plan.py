"""What a plan has to obey whatever is planned."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moga.attention import layer
from moga.config import MoGAConfig
from moga.flops import computed, model_flops
from moga.layout import VideoLayout
from moga.plan import generation, training
from moga.plan.arrange import learning_ways, sampling_ways
from moga.plan.buffers import LARGE
from moga.plan.cards import CARDS, Network
from moga.plan.errors import PlanError
from moga.plan.estimate import Arrangement
from moga.plan.generation import Sampling
from moga.plan.geometry import Film, film_of
from moga.plan.models import MODELS
from moga.plan.options import Request
from moga.plan.parts import parts_of
from moga.plan.passes import EXCHANGE, ROUTING, Job, forward_bytes, operations
from moga.plan.planned import answers, best_learning, best_sampling
from moga.plan.training import FULL, KEEP, LORA, OFFLOAD, RECOMPUTE, Learning
from moga.shots import Shot, ShotList
from moga.wan import HEAD_WIDTH

models = st.sampled_from(list(MODELS.values()))
cards = st.sampled_from(list(CARDS.values()))
configs = st.one_of(
    st.none(),
    st.builds(
        MoGAConfig,
        groups=st.integers(1, 32),
        windows=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        window_frames=st.integers(1, 20),
        combine=st.sampled_from(["union", "mean"]),
    ),
)
learnings = st.builds(
    Learning,
    weights=st.sampled_from([FULL, LORA]),
    checkpointing=st.sampled_from([RECOMPUTE, KEEP, OFFLOAD]),
    ema=st.booleans(),
    host_weights=st.booleans(),
)


@st.composite
def jobs(draw):
    model, card = draw(models), draw(cards)
    frames = draw(st.integers(2, 200))
    shots = draw(st.integers(1, min(6, frames)))
    starts = tuple(i * frames // shots for i in range(shots))
    layout = VideoLayout(frames, draw(st.integers(8, 60)), draw(st.integers(8, 60)), starts)
    film = Film(model, layout, draw(configs), 832, 480, 16)
    network = Network(card.link, host_cards=draw(st.sampled_from([1, 4, 8])))
    return Job(film, card, network, Arrangement(), draw(st.sampled_from(card.backends)))


def of(job, how, work):
    job = replace(job, arrangement=how)
    return (generation if isinstance(work, Sampling) else training).estimate(job, work)


works = st.one_of(st.builds(Sampling, st.just(30), st.booleans()), learnings)


@given(jobs(), works)
def test_one_card_gets_nothing_over_the_wire(job, work):
    assert of(job, Arrangement(), work).wire == {}


@given(jobs(), works, st.integers(2, 39))
def test_more_ranks_never_hold_more_each(job, work, ranks):
    """From two on, that is: the first exchange brings its buffers.

    And not where the attention layer's tensors become small: it then takes more of them, by choice.
    """
    if ranks >= job.film.model.heads:
        return
    ways = [Arrangement(count) for count in (ranks, ranks + 1)]
    heads = [replace(job, arrangement=way).work.heads for way in ways]
    if len({job.film.layout.tokens * many * HEAD_WIDTH < LARGE for many in heads}) == 1:
        fewer, more = (of(job, way, work) for way in ways)
        assert more.bytes_held <= fewer.bytes_held * (1 + 1e-9)


def test_tensors_are_large_where_the_layer_says_so():
    assert layer._LARGE == LARGE


@given(jobs(), works)
def test_two_ranks_hold_less_than_one(job, work):
    assert of(job, Arrangement(2), work).bytes_held < of(job, Arrangement(), work).bytes_held


@given(jobs(), learnings, st.integers(1, 8), st.integers(2, 6))
def test_weights_split_further_never_take_more(job, learning, ranks, times):
    ranks = min(ranks, job.film.model.heads)
    some = Arrangement(ranks, 1, 4, 2 * ranks)
    more = replace(some, copies=4 * times, shard=2 * ranks * times)
    assert of(job, more, learning).bytes_held <= of(job, some, learning).bytes_held


@given(jobs(), learnings, st.integers(2, 16))
def test_weights_in_the_host_s_memory_leave_the_card_and_take_time(job, learning, cards):
    how = Arrangement(copies=cards, shard=cards)
    ways = [replace(learning, host_weights=away) for away in (True, False)]
    there, here = (of(job, how, way) for way in ways)
    assert there.bytes_held < here.bytes_held and there.step > here.step
    assert there.wire == here.wire
    job, hosts = replace(job, arrangement=how), -(-cards // job.network.host_cards)
    gone = training.host_memory(job, ways[0]) - training.host_memory(job, ways[1])
    assert gone * hosts > cards * (here.bytes_held - there.bytes_held)


@given(jobs(), learnings)
def test_a_host_has_what_waits_there(job, learning):
    """Block inputs wait there too, without weights; and else nothing does."""
    held = training.host_memory(job, replace(learning, host_weights=False))
    inputs = job.layers * job.work.unit
    assert held == (inputs if learning.checkpointing == OFFLOAD else 0)
    more = training.host_memory(replace(job, arrangement=Arrangement(copies=2, shard=2)), learning)
    held *= min(2, job.network.host_cards)
    assert more >= held and (more > held) == learning.host_weights


@given(jobs(), learnings)
def test_weights_that_are_whole_stay_on_their_card(job, learning):
    one = Arrangement()
    a, b = (of(job, one, replace(learning, host_weights=away)) for away in (True, False))
    assert (a.memory, a.seconds) == (b.memory, b.seconds)


@given(jobs(), works)
def test_longer_films_take_longer_and_more_room(job, work):
    layout = job.film.layout
    longer = replace(layout, frames=layout.frames + 10)
    other = replace(job, film=replace(job.film, layout=longer))
    a, b = of(job, Arrangement(), work), of(other, Arrangement(), work)
    assert b.step > a.step
    assert b.bytes_held >= a.bytes_held


@given(jobs(), works, st.floats(1.1, 20))
def test_a_faster_network_is_never_slower_and_carries_the_same(job, work, times):
    how = Arrangement(min(12, job.film.model.heads), 1, 2, 1)
    slow = job.network
    fast = replace(slow, link=slow.link * times, network=slow.network * times)
    a, b = of(job, how, work), of(replace(job, network=fast), how, work)
    assert b.step <= a.step * (1 + 1e-9)
    assert a.wire == b.wire


@given(jobs(), works, st.integers(1, 40))
def test_nothing_is_negative_or_not_a_number(job, work, ranks):
    found = of(job, Arrangement(min(ranks, job.film.model.heads)), work)
    for values in (found.seconds, found.wire, found.memory, found.operations):
        assert all(0 <= value < float("inf") for value in values.values())


@given(jobs())
def test_operations_are_those_of_flops(job):
    """`moga/flops.py` has one text for the whole film; here each shot has its own."""
    film = replace(job.film, layout=replace(job.film.layout, shots=(0,)))
    job = replace(job, film=film)
    mine = model_flops(film.layout, film.config, film.model.shape)
    assert sum(operations(job).values()) == pytest.approx(mine.total, rel=1e-9)


@given(jobs())
def test_pairs_are_those_of_flops(job):
    layout, config = job.film.layout, job.film.config
    if config is not None:
        found = parts_of(layout, config).pairs
        assert found == pytest.approx(computed(layout, config) * layout.tokens**2, rel=1e-9)


@given(jobs(), st.integers(2, 40))
def test_the_exchange_sends_what_ulysses_sends(job, ranks):
    """q, k, v and the result, a rank's part of the heads for all tokens but its own; and five bytes
    of each token that is elsewhere."""
    model, tokens = job.film.model, job.film.layout.tokens
    if model.heads % ranks:
        return
    found = forward_bytes(replace(job, arrangement=Arrangement(ranks)))
    elsewhere = tokens - tokens / ranks
    width = model.shape.width
    assert found[EXCHANGE] == pytest.approx(
        model.shape.layers * 4 * elsewhere * width / ranks * 2, rel=1e-9
    )
    if job.film.config is not None:
        assert found[ROUTING] == pytest.approx(model.shape.layers * 5 * elsewhere, rel=1e-9)


@given(jobs(), works)
def test_heads_that_do_not_divide_cost_what_the_fullest_rank_does(job, work):
    """12 heads on 8 ranks: some have 2, as on 6."""
    job = replace(job, film=replace(job.film, model=MODELS["1.3B"]))
    attention = [name for name in of(job, Arrangement(), work).seconds if "attention," in name]
    six, eight, twelve = (of(job, Arrangement(ranks), work) for ranks in (6, 8, 12))
    for name in attention:
        assert eight.seconds[name] == pytest.approx(six.seconds[name])
        assert twelve.seconds[name] < eight.seconds[name]


@given(st.integers(1, 300), models, st.booleans(), st.integers(1, 200))
def test_ways_keep_to_cards_and_heads(count, model, guided, clips):
    for way in sampling_ways(count, model.heads, guided, None):
        assert way.cards <= count and way.sequence <= model.heads
        assert way.copies >= 1
    for way in learning_ways(count, model.heads, clips, None, None, 8):
        assert way.cards <= count and way.copies <= clips and way.cards % way.shard == 0


@settings(max_examples=25)
@given(jobs(), learnings, st.integers(1, 32))
def test_the_choice_is_at_least_as_fast_as_any_that_fits(job, learning, count):
    request = Request(job.film, count, job.card, job.network, job.backend, Sampling(30, True), None)
    best, fits = best_sampling(request)
    ways = sampling_ways(count, job.film.model.heads, True, None)
    others = [of(job, way, request.sampling) for way in ways]
    assert fits == any(other.fits for other in others) == best.fits
    assert all(best.step <= 1.01 * other.step for other in others if other.fits) or not fits
    if count == 1:  # over which nothing can be split
        learning = replace(learning, host_weights=False)
    asked = replace(request, sampling=None, learning=replace(learning, clips=4))
    found, fits = best_learning(asked)
    assert fits == found.fits and found.arrangement.copies <= 4


def request_of(model, seconds, count, card="h100", **options):
    film = film_of(MODELS[model], MoGAConfig(), seconds, "16", (832, 480))
    network = Network(CARDS[card].link)
    return Request(
        *(film, count, CARDS[card], network, CARDS[card].backend, Sampling(30, True)),
        Learning(**options),
    )


def test_what_does_not_fit_is_said_with_what_does():
    sampled, learned = answers(request_of("14B", 30, 1))
    assert sampled.fits and not learned.fits
    fewest, found = learned.fitting
    assert found.fits and best_learning(request_of("14B", 30, fewest))[1]
    assert not any(best_learning(request_of("14B", 30, n))[1] for n in range(1, fewest))


def test_what_fits_on_no_number_of_cards_has_none():
    sampled, _ = answers(request_of("14B", 30, 4, "4090"))
    assert not sampled.fits and sampled.fitting is None


@given(st.floats(0.1, 70, allow_nan=False), st.sampled_from(["16", "24", "23.976"]))
def test_frames_are_rounded_as_scripts_round_them(seconds, fps):
    seconds = round(seconds, 2)
    film = film_of(MODELS["1.3B"], None, seconds, fps, (832, 480))
    shots = ShotList((Shot("x", seconds=seconds),), fps)
    assert (film.frames, film.layout.frames) == (shots.frames, shots.latent_frames)
    assert film.frames % 4 == 1


def test_the_5b_has_its_own_grid():
    film = film_of(MODELS["5B"], MoGAConfig(), 5, "24", (1280, 704))
    assert (film.layout.height, film.layout.width, film.frames) == (22, 40, 121)
    with pytest.raises(PlanError, match="multiple of 32, such as 832"):
        film_of(MODELS["5B"], None, 5, "24", (840, 480))


def test_weights_are_as_many_as_the_models_have():
    """As diffusers builds them, without a router."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    for model in MODELS.values():
        with torch.device("meta"):
            dit = diffusers.WanTransformer3DModel(
                num_attention_heads=model.heads,
                num_layers=model.shape.layers,
                ffn_dim=model.shape.feed_forward,
                in_channels=model.channels,
                out_channels=model.channels,
            )
        assert sum(p.numel() for p in dit.parameters()) == model.weights(0)
