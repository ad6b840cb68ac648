"""Convert images of more than 8 bits per channel to 8 bits, by their range of values.

image = Image.open("scan.tif")              # mode I, I;16 or F
gray = to_8_bits(image, "scan.tif")         # mode L

The range is the range that the file states. Many files state no range, such as files of
12 bits in 16, of 32-bit integers or of floating-point numbers. The range is then
assumed from the values of the image, and a log line names the first such image. No
value is clipped.
"""

import logging

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

# Numbers of TIFF tags.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _LOWEST, _HIGHEST = 258, 262, 339, 340, 341
_UNSIGNED, _WHITE_IS_ZERO = 1, 0
# Bit depths of cameras, scanners and microscopes.
_DEPTHS = (8, 10, 12, 14, 16)
_FULL_RANGE = ("JPEG2000", "PPM")  # Pillow scales these to 16 bits by their headers.
# Only the first image with an assumed range is logged, not a line for each image.
_named: list[str] = []


def to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Convert a gray image of more than 8 bits to 8 bits.

    Args:
      image: image of mode I, I;16 or F, as Pillow opened it.
      name: name of the image, for the log.

    Raises:
      ValueError: if a value is not a finite number.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    unsigned = _first(tags.get(_SAMPLE_FORMAT, _UNSIGNED)) == _UNSIGNED
    if image.mode == "I" and _first(tags.get(_BITS)) == 32 and unsigned:
        values = values.view(np.uint32)  # Pillow reads the bits as signed.
    if count := np.count_nonzero(~np.isfinite(values)):
        raise ValueError(
            f"{count} of {values.size} pixels are not finite numbers; replace "
            "them by a number"
        )
    lowest, highest = values.min().item(), values.max().item()
    low, high = _stated_range(image, lowest, highest) or _assumed_range(
        image.mode, lowest, highest, name
    )
    gray = _scale(values, low, high)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts only 8 bits.
        gray = 255 - gray
    return Image.fromarray(gray)


def check_colour_depth(image: Image.Image) -> None:
    """Check that an image of 16 bits per channel uses the upper bits.

    Pillow keeps the upper 8 bits of each channel of such an image. An image of 12 bits
    in 16 would become almost black. Alpha does not count, because an opaque image has
    the largest alpha.

    Raises:
      ValueError: if no channel of colour or gray uses the upper 2 bits.
    """
    bands = zip(image.getbands(), image.split(), strict=True)
    highest = (np.asarray(band).max() for name, band in bands if name not in "Aa")
    if max(highest) < 64:
        raise ValueError(
            "it has 16 bits per channel, but no value uses the upper 2 bits, and only "
            "the upper 8 bits can be read; convert it to 8 bits per channel"
        )


def _first(value):
    """Return the value of a TIFF tag, or the first value if it is a tuple."""
    return value[0] if isinstance(value, tuple) and value else value


def _stated_range(
    image: Image.Image, lowest: float, highest: float
) -> tuple[float, float] | None:
    """Return the range that a file states, if the values of the image agree with it."""
    if image.format in _FULL_RANGE and image.mode != "F":
        return 0, 2**16 - 1
    tags = getattr(image, "tag_v2", {})
    low, high = _first(tags.get(_LOWEST)), _first(tags.get(_HIGHEST))
    if low is None or high is None or not low <= lowest <= highest <= high != low:
        bits = _first(tags.get(_BITS))
        return (0, 2**bits - 1) if bits is not None and 8 < bits < 16 else None
    return float(low), float(high)


def _assumed_range(
    mode: str, lowest: float, highest: float, name: str
) -> tuple[float, float]:
    """Return the range that follows from the values of an image."""
    integers = mode != "F"
    depths = (bits for bits in _DEPTHS if highest < 2**bits)
    depth = next(depths, None) if lowest >= 0 else None
    if lowest >= 0 and highest <= 1 and not integers:
        low, high = 0.0, 1.0
    elif depth:
        low, high = 0, 2**depth - 1
    else:
        low, high = lowest, highest
    if not (mode.startswith("I;16") and depth == 16) and not _named:
        _named.append(name)
        logging.warning(
            "%s does not state its range of values; its values, from %g to %g, are "
            "read as %g (black) to %g (white); further such images are not named",
            *(name, lowest, highest, low, high),
        )
    return low, high


def _scale(
    values: Shaped[np.ndarray, "h w"], low: float, high: float
) -> UInt8[np.ndarray, "h w"]:
    """Scale values from [low, high] to [0, 255], as uint8."""
    depth = next((bits for bits in _DEPTHS if (low, high) == (0, 2**bits - 1)), None)
    if depth and values.dtype.kind in "iu":
        return (values >> (depth - 8)).astype(np.uint8)
    wide = values.astype(np.float64)
    return np.rint((wide - low) * (255 / ((high - low) or 1))).astype(np.uint8)
