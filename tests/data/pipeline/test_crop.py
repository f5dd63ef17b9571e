"""The largest clean crop, held to trying every rectangle."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from moga.data.pipeline.crop import crop, largest
from moga.data.pipeline.measures import Borders
from moga.data.pipeline.records import Boundary, Box, Film, Shot, Source, Text
from moga.data.pipeline.settings import Settings

small = st.integers(0, 3)
sides = st.integers(4, 11)


@st.composite
def pictures(draw):
    width, height = draw(sides), draw(sides)
    borders = Borders(draw(small), draw(small), draw(small), draw(small))
    boxes = draw(
        st.lists(
            st.builds(Box, st.integers(0, 9), st.integers(0, 9), st.integers(1, 5),
                      st.integers(1, 4)),
            max_size=4,
        )
    )  # fmt: skip
    ratio = Fraction(draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return width, height, ratio, borders, boxes


def every_place(width, height, ratio, borders, boxes):
    taken = {
        (x, y)
        for box in boxes
        for x in range(box.x, box.x + box.width)
        for y in range(box.y, box.y + box.height)
    }
    for down in range(1, height + 1):
        across = max(1, int(down * ratio))
        for x in range(borders.left, width - borders.right - across + 1):
            for y in range(borders.top, height - borders.bottom - down + 1):
                cells = ((x + i, y + j) for i in range(across) for j in range(down))
                if not any(cell in taken for cell in cells):
                    yield Box(x, y, across, down)


@given(pictures())
def test_no_larger_rectangle_is_clean_and_none_as_large_is_nearer_to_the_middle(picture):
    width, height, *_ = picture

    def key(box):
        off = (2 * box.x + box.width - width) ** 2 + (2 * box.y + box.height - height) ** 2
        return box.height, -off

    found, best = largest(*picture), max(every_place(*picture), key=key, default=None)
    assert (found is None) == (best is None)
    if found is not None:
        assert key(found) == key(best)
        assert found in set(every_place(*picture))


def film(width, height, *texts, borders=(0, 0, 0, 0), kept=True):
    names = ("left", "top", "right", "bottom")
    scores = {f"border_{n}": float(b) for n, b in zip(names, borders, strict=True)}
    ends = Boundary("start", 0, 0), Boundary("end", 50, 50)
    shot = Shot("a-0", "a", 0, 0, 50, *ends, scores=scores, kept=kept,
                texts=tuple(Text(box, 1.0) for box in texts))  # fmt: skip
    source = Source("a", "/a", "a", width=width, height=height, fps=Fraction(25), frames=50)
    return Film(source, (shot,))


def test_a_clean_picture_is_used_whole():
    (shot,) = crop(film(1920, 1080), Settings()).shots
    assert shot.crop is None and shot.kept and shot.scores["crop_share"] == 1


def test_letterbox_and_subtitle_are_left_out_at_the_aspect_ratio():
    found = crop(film(1920, 1080, Box(500, 860, 900, 60), borders=(0, 140, 0, 140)), Settings())
    (shot,) = found.shots
    assert shot.crop == Box(320, 140, 1280, 720) and not shot.kept
    (why,) = shot.decisions
    assert (why.reason, why.limit) == (
        "keeps 44% of the picture without borders and text, less than 50%", 0.5)  # fmt: skip
    wide = Settings(crop={"aspect": "16:6", "share_least": 0.4})
    (shot,) = crop(film(1920, 1080, Box(500, 860, 900, 60)), wide).shots
    assert shot.crop == Box(0, 140, 1920, 720) and shot.kept


def test_what_was_dropped_is_not_cropped():
    (shot,) = crop(film(640, 360, Box(0, 0, 640, 360), kept=False), Settings()).shots
    assert shot.crop is None and shot.decisions == ()
    (shot,) = crop(film(640, 360, Box(0, 0, 640, 360)), Settings()).shots
    assert [d.reason for d in shot.decisions] == ["no clean rectangle is left"] and not shot.kept
