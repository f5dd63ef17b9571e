"""Which shots become one sample: no shot twice, none over the limit, and the best there is."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from moga.data.pipeline.common_crop import common_crop
from moga.data.pipeline.crop import crop
from moga.data.pipeline.plan import group, plan, sample_frames
from moga.data.pipeline.records import Boundary, Box, Film, Shot, Source, Text
from moga.data.pipeline.rows import validation_sources
from moga.data.pipeline.settings import Crop, Merge, Settings

SOURCE_RATES = [Fraction(24), Fraction(25), Fraction(24000, 1001), Fraction(30), Fraction(15)]
WIDE, HIGH = 128, 72


# Lines of text at the upper or the lower edge.
texts = st.lists(
    st.builds(Text, st.builds(Box, st.integers(0, 60), st.sampled_from([2, 60]), st.integers(9, 60),
                              st.integers(4, 9)), st.just(1.0)),
    max_size=2,
).map(tuple)  # fmt: skip


@st.composite
def films(draw):
    """Shots with transitions or nothing between them, some dropped, some with texts."""
    fps, start, shots = draw(st.sampled_from(SOURCE_RATES)), 0, []
    for index in range(draw(st.integers(0, 8))):
        start += draw(st.sampled_from([0, 0, 0, 7]))
        end = start + draw(st.integers(1, 300))
        edge = Boundary("cut", start, start)
        kept = draw(st.sampled_from([True, True, True, False]))
        shot = Shot(f"s{index}", "s", index, start, end, edge, edge, kept=kept)
        shots.append(replace(shot, caption=f"c{index}", texts=draw(texts)))
        start = end
    source = Source("s", "/s.mp4", "s.mp4", WIDE, HIGH, fps, start)
    return crop(Film(source, tuple(shots)), Settings(crop=Crop(share_least=0.2)))


@st.composite
def ways(draw):
    merge = Merge(
        fps=draw(st.sampled_from([8, 16, 23.976, 24])),
        seconds_most=draw(st.sampled_from([2, 5.5, 30])),
        seconds_least=draw(st.sampled_from([0, 1])),
        shots_least=draw(st.sampled_from([1, 2])),
        across_dropped=draw(st.booleans()),
        crop_least=draw(st.sampled_from([0.2, 0.75])),
    )
    return Settings(merge=merge, crop=Crop(share_least=draw(st.sampled_from([0.2, 0.5]))))


@given(film=films(), how=ways())
@settings(max_examples=400)
def test_samples_are_runs_of_good_shots_on_the_grid(film, how):
    planned = plan(film, how)
    rate, old = planned.samples[0].fps if planned.samples else 1, film.source.fps
    assert plan(film, how) == planned  # the same again
    known = {shot.id: shot for shot in film.shots}
    used = [(part.start, part.end) for sample in planned.samples for part in sample.shots]
    assert all(a[1] <= b[0] for a, b in pairwise(used))  # in order, no frame twice
    for sample in planned.samples:
        assert sample.frames % 4 == 1 and sample.frames <= how.merge.seconds_most * rate
        assert sample.frames >= how.merge.seconds_least * rate
        assert len(sample.shots) >= how.merge.shots_least
        firsts = [part.first for part in sample.shots]
        assert firsts[0] == 0 and all(first % 4 == 1 for first in firsts[1:])
        ends = [*firsts[1:], sample.frames]
        indices = [known[part.shot].index for part in sample.shots]
        for part, end in zip(sample.shots, ends, strict=True):
            shot = known[part.shot]
            assert shot.kept and shot.start <= part.start < part.end <= shot.end
            assert part.caption == shot.caption
            seconds = (end - part.first) / rate
            assert part.start / old + seconds <= shot.end / old  # no frame of the next shot
        between = [n for a, b in pairwise(indices) for n in range(a + 1, b)]
        assert indices == sorted(set(indices))  # no two parts of a shot
        assert how.merge.across_dropped or not between
        assert all(not planned.shots[n].kept for n in between)
        box = sample.crop or Box(0, 0, WIDE, HIGH)
        shown = [text.box for part in sample.shots for text in known[part.shot].texts]
        assert not any(touch(box, text) for text in shown)


@given(film=films(), how=ways())
def test_what_is_left_out_is_told(film, how):
    """Every good shot is used but for what the grid, the limit and the rate cannot hold."""
    planned = plan(film, how)
    rate = Fraction(24000, 1001) if how.merge.fps == 23.976 else Fraction(how.merge.fps)
    used = {}
    for sample in planned.samples:
        ends = [*(part.first for part in sample.shots[1:]), sample.frames]
        for part, end in zip(sample.shots, ends, strict=True):
            used[part.shot] = used.get(part.shot, 0) + end - part.first
    for before, after in zip(film.shots, planned.shots, strict=True):
        if after.kept:
            whole = (before.end - before.start) * rate / film.source.fps
            parts = 1 + whole // (how.merge.seconds_most * rate - 4)
            if parts > 1 and (how.merge.seconds_least or how.merge.shots_least > 1):
                continue  # a part alone may not be enough for a sample
            # The rest of the grid and of the rate, and what is over a limit that is off the grid.
            assert whole - used[after.id] < (4 + rate / film.source.fps) * parts
        elif before.kept:
            assert after.decisions[-1].stage == "merge" and after.id not in used
        else:
            assert after == before


def touch(a, b):
    across = a.x < b.x + b.width and b.x < a.x + a.width
    return across and a.y < b.y + b.height and b.y < a.y + a.height


@given(
    lengths=st.lists(st.sampled_from([5, 9, 14, 20, 33, 60]), min_size=1, max_size=8),
    longest=st.sampled_from([41, 61, 81]),
    wanted=st.sampled_from([2, 3]),
    walls=st.sets(st.integers(1, 8), max_size=3),
)
@settings(max_examples=400)
def test_groups_are_the_best_of_all(lengths, longest, wanted, walls):
    """Against every way there is to group them. walls: between which nothing goes together."""
    lengths = [min(n, longest) for n in lengths]

    def allowed(first, end):
        return not any(first < wall < end for wall in walls)

    def cost(groups):
        few = sum(b - a for a, b in groups if b - a < wanted)
        return few, len(groups), sum(sample_frames(lengths[a:b]) ** 2 for a, b in groups)

    ways = []
    for count in range(len(lengths)):
        for edges in combinations(range(1, len(lengths)), count):
            groups = list(pairwise([0, *edges, len(lengths)]))
            if all(
                b - a == 1 or (allowed(a, b) and sample_frames(lengths[a:b]) <= longest)
                for a, b in groups
            ):
                ways.append(groups)
    found = group(lengths, longest, wanted, allowed)
    assert found in ways
    assert cost(found) == min(map(cost, ways))


@given(film=films(), share=st.sampled_from([0.0, 0.3, 0.7]), least=st.sampled_from([0.0, 0.75]))
def test_a_crop_that_shots_share_is_clean_for_all_and_leaves_enough_of_each(film, share, least):
    how = Settings(crop=Crop(share_least=share), merge=Merge(crop_least=least))
    shots = [shot for shot in film.shots if shot.kept]
    if shots and (box := common_crop(film.source, shots, how)):
        assert box.x + box.width <= WIDE and box.y + box.height <= HIGH
        assert not any(touch(box, text.box) for shot in shots for text in shot.texts)
        if len({shot.crop for shot in shots}) > 1:
            assert box.width * box.height >= share * WIDE * HIGH
            for own in (shot.crop or Box(0, 0, WIDE, HIGH) for shot in shots):
                assert box.width * box.height >= least * own.width * own.height
            assert not any(n % 2 for n in (box.x, box.y, box.width, box.height))


ids = st.sets(st.text("abcdef0123456789", min_size=4, max_size=12), max_size=30)


@given(sources=ids, share=st.floats(0, 1), seed=st.integers(0, 5))
def test_films_for_the_validation(sources, share, seed):
    held = validation_sources(sources, share, seed)
    assert held <= sources and held == validation_sources(
        sorted(sources, reverse=True), share, seed
    )
    if len(sources) > 1:
        assert bool(held) == (share > 0)
        assert held != sources or share == 1
    elif share < 1:
        assert not held


@given(sources=ids, new=ids, seed=st.integers(0, 5))
def test_a_new_film_moves_no_other_one(sources, new, seed):
    before, after = (validation_sources(s, 0.3, seed) for s in (sources, sources | new))
    if 0 < len(before) < len(sources) and len(before) > 1:
        assert len(before ^ (after & sources)) <= 1
