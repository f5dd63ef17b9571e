"""The first frame: every kind of picture becomes one of the film's size, by a stated rule."""

import numpy as np
import pytest
from harness.damage import damaged_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from moga.generate import main
from moga.generate.options import UsageError
from moga.generate.picture import open_picture

WIDTH, HEIGHT = 48, 32
RAMP = np.linspace(0, 1, 96 * 64).reshape(64, 96)


def opened(path):
    picture = open_picture(path, WIDTH, HEIGHT)
    assert picture.image.mode == "RGB" and picture.image.size == (WIDTH, HEIGHT)
    return np.asarray(picture.image).astype(int), picture.said


def refusal(path):
    with pytest.raises(UsageError) as error:
        open_picture(path, WIDTH, HEIGHT)
    assert "\n" not in str(error.value)
    return str(error.value)


def halves(width=96, height=64):
    """Red on the left, blue on the right, and a green line along the top."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
    pixels[: height // 8] = (0, 200, 0)
    return Image.fromarray(pixels)


@given(st.integers(1, 256), st.integers(1, 256))
def test_any_aspect_is_cut_in_the_middle_and_never_stretched(tmp_path_factory, width, height):
    """By pixels that say where they were: the middle stays, and both axes have one scale."""
    path = tmp_path_factory.getbasetemp() / "grid.png"
    y, x = np.ogrid[:height, :width]
    place = np.stack([x + 0 * y, y + 0 * x, 0 * x + 0 * y], -1)
    Image.fromarray(place.astype(np.uint8)).save(path)
    scale = max(WIDTH / width, HEIGHT / height)
    pixels, said = opened(path)
    for axis, edge, size in ((1, width, WIDTH), (0, height, HEIGHT)):
        middle = pixels[..., 1 - axis].mean()
        assert abs(middle - (edge - 1) / 2) < 1 + 1 / scale
        shown = size / scale
        first, last = np.take(pixels[..., 1 - axis], (0, -1), axis).mean(axis=1 - axis)
        assert abs((last - first) - max(0, shown - 1)) < 2 + 2 / scale
    cover = [round(edge * scale) for edge in (width, height)]
    assert ("cut in the middle to 48x32" in said) == (cover != [WIDTH, HEIGHT])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_the_camera_was_held(tmp_path, orientation):
    """Whatever way the file holds it, the picture is the same one."""
    upright = halves()
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of Transpose
    held = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    for name in ("a.png", "a.jpg", "a.tif", "a.webp"):
        held.save(tmp_path / name, exif=exif, quality=95)
        with Image.open(tmp_path / name) as file:
            assert ImageOps.exif_transpose(file).size == upright.size
        pixels, said = opened(tmp_path / name)
        assert pixels[-4, 4].argmax() == 0 and pixels[-4, -4].argmax() == 2
        assert pixels[0, WIDTH // 2].argmax() == 1
        assert ("turned as its EXIF data say" in said) == (orientation != 1)


@pytest.mark.parametrize(("values", "name"), [
    ((RAMP * 65535).astype(np.uint16), "a.png"),
    ((RAMP * 65535).astype(np.uint16), "a.tif"),
    ((RAMP * 65535).astype(np.int32), "a.tif"),
    ((RAMP * (2**31 - 1)).astype(np.int32), "a.tif"),
    (RAMP.astype(np.float32), "a.tif"),
    ((RAMP * 255).astype(np.float32), "a.tif"),
    ((RAMP * 65535).astype(np.float32), "a.tif"),
])  # fmt: skip
def test_more_than_eight_bits_are_scaled_and_not_clipped(tmp_path, values, name):
    Image.fromarray(values).save(tmp_path / name)
    Image.fromarray(np.rint(RAMP * 255).astype(np.uint8)).save(tmp_path / "eight.png")
    expected, _ = opened(tmp_path / "eight.png")
    assert abs(opened(tmp_path / name)[0] - expected).max() <= 1


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    Image.fromarray((RAMP * 200).astype(np.uint16)).save(tmp_path / "a.png")
    assert opened(tmp_path / "a.png")[0].max() <= 1


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf, 1e20])
def test_values_that_are_no_grey(tmp_path, value):
    Image.fromarray(np.where(RAMP > 0.5, np.float32(value), 0)).save(tmp_path / "a.tif")
    assert "which has values below 0 or that aren't numbers" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_every_mode_shows_the_same_colours(tmp_path, mode):
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    picture = halves().convert(mode)
    picture.save(tmp_path / name)
    expected = ImageOps.fit(picture.convert("RGB"), (WIDTH, HEIGHT))
    assert abs(opened(tmp_path / name)[0] - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize(("mode", "name"), [
    ("RGBA", "a.png"), ("LA", "a.png"), ("RGBA", "a.webp"), ("RGBA", "a.tif"),
])  # fmt: skip
def test_what_is_transparent_lies_on_white(tmp_path, mode, name):
    picture = halves().convert(mode)
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 48, 64))  # what is red
    picture.putalpha(alpha)
    picture.save(tmp_path / name, lossless=True)
    pixels, said = opened(tmp_path / name)
    assert (pixels[-4, 4] == 255).all() and not (pixels[-4, -4] == 255).all()
    assert ", on white" in said


def test_a_transparent_colour_lies_on_white(tmp_path):
    picture = halves().quantize(4)
    red = picture.getpixel((4, 60))
    picture.save(tmp_path / "a.png", transparency=red)
    pixels, said = opened(tmp_path / "a.png")
    assert (pixels[-4, 4] == 255).all() and ", on white" in said


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_picture(tmp_path, name):
    frames = [halves(), Image.new("RGB", (96, 64), "white")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    pixels, said = opened(tmp_path / name)
    assert pixels[-4, 4].argmax() == 0 and "the first of its pictures" in said


def test_as_many_pixels_as_pillow_opens(tmp_path, recwarn):
    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    assert "of 9500x9500" in opened(tmp_path / "large.png")[1]
    assert not recwarn.list
    Image.new("1", (13400, 13400)).save(tmp_path / "larger.png")
    assert "larger.png, which has more than 179 million pixels; make" in refusal(
        tmp_path / "larger.png"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.webp", "a.bmp"])
def test_damaged_pictures_are_shown_or_refused_in_one_sentence(tmp_path, name):
    path = tmp_path / name
    exif = Image.Exif()
    exif[0x0112] = 6
    halves().save(path, **({"exif": exif} if name[2:] in ("png", "jpg", "tif", "webp") else {}))
    for content in damaged_bytes(path.read_bytes(), seed=0, count=100):
        path.write_bytes(content)
        try:
            opened(path)
        except UsageError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_what_is_no_picture(tmp_path):
    for content in (b"", b"hello", bytes(100)):
        (tmp_path / "a.png").write_bytes(content)
        assert refusal(tmp_path / "a.png").endswith("which is no picture; give a PNG or JPEG.")
    halves().save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert "which is damaged, cut off" in refusal(tmp_path / "cut.png")


def test_the_film_begins_with_what_the_plan_says(line, model_files, tmp_path, capsys):
    """A picture of another aspect makes the film that its middle makes."""
    Image.effect_noise((96, 128), 80).save(tmp_path / "tall.png")
    ImageOps.fit(Image.open(tmp_path / "tall.png").convert("RGB"), (48, 32)).save(
        tmp_path / "fit.png"
    )
    films = []
    for name in ("tall", "fit"):
        given = {"model": model_files("i2v_2.2"), "image": tmp_path / f"{name}.png", "steps": 1}
        assert main(line(out=tmp_path / f"{name}.mp4", **given)) == 0
        films.append((tmp_path / f"{name}.mp4").read_bytes())
    assert films[0] == films[1]
    assert (
        "image     tall.png, PNG L of 96x128, scaled to 48x64, cut in the middle to 48x32\n"
        in capsys.readouterr().out
    )
