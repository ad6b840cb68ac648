"""Decode images of files and data sets: upright, in RGB, resized.

pixels = load_pixels(path.read_bytes(), shortest_side=320)   # uint8 [h, w, 3]
"""

import io
import os

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# The endings of the names of image files.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# The largest ratio of the longer to the shorter side. A longer image is cut to its
# centre.
MAX_ASPECT = 2.0


class UnreadableImage(ValueError):
    """A file is not an image, or is incomplete."""


def decode(encoded: bytes) -> Image.Image:
    """Decode an image to RGB, upright by its EXIF orientation.

    Transparent pixels are composed on white; 16-bit values keep their upper 8 bits.

    Raises:
      OSError: if `encoded` is not an image, or is incomplete.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize(image: Image.Image, shortest_side: int) -> Image.Image:
    """Cut an image to `MAX_ASPECT`, then resize its shortest side, given in pixels."""
    longest = round(min(image.size) * MAX_ASPECT)
    if max(image.size) > longest:
        width, height = (min(side, longest) for side in image.size)
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    scale = shortest_side / min(image.size)
    if scale == 1:
        return image
    width, height = (max(shortest_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def longest_side(shortest_side: int) -> int:
    """Return an upper bound for the longer side of an image that `resize` returns."""
    return round(shortest_side * MAX_ASPECT) + 1


def load_pixels(encoded: bytes, shortest_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode and resize an image.

    Raises:
      UnreadableImage: if the image cannot be decoded. The message has the reason; the
        caller adds the file name.
    """
    try:
        return np.asarray(resize(decode(encoded), shortest_side))
    except UnidentifiedImageError as error:
        raise UnreadableImage("the file is not an image of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(str(error)) from error


def upright_size(file: str | os.PathLike | io.BytesIO) -> tuple[int, int]:
    """Read the (width, height) of the upright image from the header of a file.

    Raises:
      OSError: if the file is not an image.
    """
    with Image.open(file) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        width, height = image.size
        return (height, width) if turned else (width, height)
