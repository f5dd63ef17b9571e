"""The picture of a shot list."""

import json
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("PIL")

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFont

from moga.pictures import pen, timeline
from moga.pictures.timeline import draw_timeline
from moga.shots import Shot, ShotList

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
CAPTIONS = [
    "Wide shot. She crosses the street.",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 e\u0301 \u2028\x1b\U0010ffff",
    "\u0645\u0631\u062d\u0628\u0627",
]


def shot_list(count):
    shots = (Shot(CAPTIONS[i % 4], frames=1 + 37 * i * i % 200) for i in range(count))
    return ShotList(tuple(shots), 16, "g")


def distance(one, other):
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def rows(count, image):
    """The height of each row of the table but the last, by the coloured fields they begin with."""
    scale = image.width / timeline._Layout(count).width
    colours = [ImageColor.getrgb(colour) for colour in timeline._COLOURS]
    column = [image.getpixel((round(39 * scale), y)) for y in range(image.height)]
    tops, y = [], 0
    for coloured, run in groupby(min(map(partial(distance, a), colours)) < 40 for a in column):
        length = len(list(run))
        if coloured and abs(length - 28 * scale) < 5:  # not the bar
            tops.append(y)
        y += length
    return [below - top for top, below in pairwise(tops)]


@pytest.mark.parametrize("width", [320, 960])
@pytest.mark.parametrize("count", [1, 2, 8, 9, 24, 25, 300])
def test_timeline(count, width):
    image = draw_timeline(shot_list(count), width)
    assert image.mode == "RGB" and image.width == width
    assert image.width >= 1.39 * image.height


@pytest.mark.parametrize("count", [2, 8, 9, 20, 24, 25, 60])
def test_up_to_24_shots_are_listed(count):
    assert len(rows(count, draw_timeline(shot_list(count), 1280))) == min(count, 24) - 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
@pytest.mark.parametrize("count", [3, 8, 9, 14, 20])
def test_rows_can_be_read_at_the_size_of_the_shipped_node(count, path):
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    ((width, height),) = (n["size"] for n in nodes if n["type"] == "MoGAShotSchedule")
    # As ComfyUI's page lays it out: 220 at least, and half of what script and picture can share.
    room = 220 + (height - 430) / 2
    image = draw_timeline(shot_list(count), 1280)
    shown = min(width / image.width, room / image.height)
    # In pixels; the page writes the lines of a script 13 apart.
    assert min(rows(count, image)) * shown >= 15


def test_timeline_bar_is_in_proportion():
    image = draw_timeline(ShotList.parse("[101f] a\n[200f] b\n[100f] c", 16))
    middle = [image.getpixel((x, 240)) for x in range(28, 932)]  # below the words
    first, second, third = (middle[int(904 * share)] for share in (0.12, 0.5, 0.87))
    assert len({first, second, third}) == 3
    # A few pixels less, for the gap between shots and smoothing.
    assert 0 <= 904 * 200 / 401 - middle.count(second) < 10
    assert 0 <= 904 * 100 / 401 - middle.count(third) < 10


def test_timeline_without_freetype(monkeypatch):
    """Pillow built without FreeType has one bitmap font, which knows no size and no Unicode."""

    def load_default(size=None):
        if size is not None:
            raise ImportError("no FreeType")
        return ImageFont.load_default_imagefont()

    def truetype(*_):
        raise ImportError("no FreeType")

    caches = (pen.own_font, pen._more_fonts, pen._glyph)
    monkeypatch.setattr(ImageFont, "load_default", load_default)
    monkeypatch.setattr(ImageFont, "truetype", truetype)
    try:
        for cache in caches:
            cache.cache_clear()
        assert timeline.draw_timeline(ShotList.parse("[4s] \u4f60\u597d café …", 16)).size == (
            960,
            440,
        )
    finally:
        for cache in caches:
            cache.cache_clear()


FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"  # one picture of three
FONTS = st.sampled_from([26, 13])
TEXTS = st.lists(
    st.sampled_from(["\U0001f642", FAMILY, "1\ufe0f\u20e3", "\u4f60\u597d", "\U0010ffff", "\u0378"])
    | st.sampled_from(["é", "—", "“", "\u2192", "a "])
    | st.text(max_size=6)
).map("".join)  # fmt: skip


@given(TEXTS, FONTS)
@example("\u4f60\u597d\uff0c\u4e16\u754c \U0001f642 e\u0301", 26)
def test_no_character_is_drawn_as_an_empty_box(text, pixels):
    for font, run in pen._runs(text, pixels):
        assert all(char == " " or pen._covers(font, char) for char in run)


@pytest.fixture
def no_more_fonts(monkeypatch):
    """Pillow's own font alone, which has ASCII and little else."""
    monkeypatch.setattr(pen, "_more_fonts", lambda pixels: ())
    pen._glyph.cache_clear()
    yield
    pen._glyph.cache_clear()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (
            f"The waiter \U0001f642 pours {FAMILY} coffee \U0001f1eb\U0001f1f7.",
            "The waiter pours coffee .",
        ),
        ("café — neon \u62db\u724c", "cafe - neon ··"),
        ("\u4f60\u597d\uff0c\u4e16\u754c", "··,··"),
        ("\uff57\uff49\uff44\uff45 \uff11", "wide 1"),
    ],
)
def test_characters_without_a_font_are_left_out_or_plain(no_more_fonts, text, plain):
    image = Image.new("RGB", (8, 8))
    assert pen.Pen(ImageDraw.Draw(image), 1).line_of(text, 26) == plain
    drawn, expected = (draw_timeline(ShotList.parse(f"[4s] {t}", 16)) for t in (text, plain))
    assert ImageChops.difference(drawn, expected).getbbox() is None
