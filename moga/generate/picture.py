"""The picture that a film begins with: any picture file, as one frame of the film's size."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .options import UsageError

if TYPE_CHECKING:
    from PIL import Image

_WHITES = (1, 255, 2**16 - 1, 2**31 - 1)  # of pictures whose numbers have no such limit themselves
_BACKGROUND = "white"  # under what is transparent
_ORIENTATION = 0x0112  # the EXIF tag for how the camera was held


@dataclass(frozen=True)
class Picture:
    """The first frame. image: RGB, of the film's size. said: what was done to make it that."""

    image: Image.Image
    said: str


def open_picture(path: Path, width: int, height: int) -> Picture:
    """A picture file turned as its camera was held, scaled to cover width x height, and cut to it.

    It is cut in the middle, as the trainer cuts videos. Values of more than 8 bits are scaled to 8;
    floating-point ones too, where white is 1, 255, 65535 or 2147483647, the smallest that none
    exceeds. What is transparent lies on white. Of an animation this is the first picture.
    Raises UsageError for a file that is no picture, damaged or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Of half the size that Pillow refuses: large, but allowed.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                words = _describe(file, path)
                whole = _rgb(ImageOps.exif_transpose(file), path)
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"--image is {path}, which is no picture; give a PNG or JPEG.") from None
    except Image.DecompressionBombError:
        most = round(2e-6 * Image.MAX_IMAGE_PIXELS)
        raise UsageError(
            f"--image is {path}, which has more than {most} million pixels; make it smaller."
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever they trip over
        raise UsageError(
            f"--image is {path}, which is damaged, cut off or of a kind that Pillow cannot show; "
            "save it again as PNG or JPEG."
        ) from error
    image = ImageOps.fit(whole, (width, height), Image.Resampling.BICUBIC)
    return Picture(image, words + _fitting(whole.size, (width, height)))


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """The picture in 8 bits of red, green and blue."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        grey = _eight_bits(np.asarray(image, np.float32), image.mode, path)
        return Image.fromarray(grey).convert("RGB")
    if _is_transparent(image):
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, _BACKGROUND)
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or not {"A", "a"}.isdisjoint(image.getbands())


def _eight_bits(values: np.ndarray, mode: str, path: Path) -> np.ndarray:
    """Grey of any other type as uint8, from black at 0 to white."""
    most = values.max()
    if not (np.isfinite(values).all() and values.min() >= 0 and most <= _WHITES[-1]):
        raise UsageError(
            f"--image is {path}, which has values below 0 or that aren't numbers; save it as PNG."
        )
    whites = _WHITES if mode == "F" else _WHITES[2:]
    white = _WHITES[2] if mode.startswith("I;16") else next(w for w in whites if most <= w)
    return np.rint(values * (255 / white)).astype(np.uint8)


def _describe(file: Image.Image, path: Path) -> str:
    """What the file holds, and which part of that is taken."""
    width, height = file.size
    words = f"{path.name}, {file.format} {file.mode} of {width}x{height}"
    if getattr(file, "is_animated", False):
        words += ", the first of its pictures"
    if file.getexif().get(_ORIENTATION, 1) != 1:
        words += ", turned as its EXIF data say"
    return words + f", on {_BACKGROUND}" if _is_transparent(file) else words


def _fitting(found: tuple[int, int], size: tuple[int, int]) -> str:
    """How a picture of that size comes to another one."""
    scale = max(want / have for want, have in zip(size, found, strict=True))
    cover = tuple(round(edge * scale) for edge in found)
    words = "" if cover == found else f", scaled to {cover[0]}x{cover[1]}"
    return words if cover == size else f"{words}, cut in the middle to {size[0]}x{size[1]}"
