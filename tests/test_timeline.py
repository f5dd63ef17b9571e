"""The picture of a shot list."""

import pytest

pytest.importorskip("PIL")

from PIL import ImageFont

from moga import timeline
from moga.shots import Shot, ShotList
from moga.timeline import draw_timeline


@pytest.mark.parametrize("width", [320, 960])
@pytest.mark.parametrize("count", [1, 2, 8, 12, 13, 300])
def test_timeline(count, width):
    captions = [
        "Wide shot. She crosses the street.",
        "\u4f60\u597d\uff0c\u4e16\u754c",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 e\u0301 \u2028\x1b\U0010ffff",
        "\u0645\u0631\u062d\u0628\u0627",
    ]
    shots = ShotList(
        tuple(Shot(captions[i % 4], frames=1 + 37 * i * i % 200) for i in range(count)), 16, "g"
    )
    image = draw_timeline(shots, width)
    assert image.mode == "RGB" and image.width == width
    rows = min(count, 12) + (count > 12)
    assert image.height == round((356 + 42 * (1 + rows)) * width / 960)


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

    caches = (timeline._own_font, timeline._more_fonts, timeline._glyph)
    monkeypatch.setattr(ImageFont, "load_default", load_default)
    monkeypatch.setattr(ImageFont, "truetype", truetype)
    try:
        for cache in caches:
            cache.cache_clear()
        shots = ShotList.parse("[4s] \u4f60\u597d café …", 16)
        assert timeline.draw_timeline(shots).size == (960, 440)
    finally:
        for cache in caches:
            cache.cache_clear()
