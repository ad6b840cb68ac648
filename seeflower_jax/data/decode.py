"""Decode images of files and data sets to upright, resized RGB.

pixels = load_pixels(path.read_bytes, shortest_side=320, name=path)   # uint8 [h, w, 3]

Every error of Pillow becomes an `UnreadableImage` with the name of the file, and every
error of the disk an `UnavailableImage`. If only the metadata is damaged, the pixels are
still read.
"""

import contextlib
import errno
import functools
import io
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from seeflower_jax.data import value_range

with contextlib.suppress(ImportError):
    import pillow_heif  # HEIC needs this optional package.

    pillow_heif.register_heif_opener()

Image.init()
# Formats that Pillow lists but cannot decode here (BUFR, GRIB, HDF5, MPEG, WMF), or
# decodes with another program (EPS).
_LEFT_OUT = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
FORMATS = tuple(name for name in Image.ID if name not in _LEFT_OUT)
# The file name extensions of all formats that Pillow can read here.
SUFFIXES = tuple(
    sorted(
        ending
        for ending, name in Image.registered_extensions().items()
        if name in FORMATS
    )
)
# The largest ratio of the longer to the shorter side. A longer image is cropped to its
# centre.
MAX_ASPECT = 2.0
# An environment variable: the largest number of pixels of an image that is decoded.
MAX_PIXELS = "SEEFLOWER_MAX_PIXELS"
# The version of the rules by which files become pixels. Increase it after a change of
# the pixels, so that pixel caches of earlier rules are not used.
RULES_VERSION = 2
_TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The chunks of a PNG file that the pixels need.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_START = b"\x89PNG\r\n\x1a\n"
# Raw modes of 16 bits per channel; "BGR;16" has 16 bits for three channels together.
_DEEP = ";16[BLN]"
# Errors of a disk or of the system. They say nothing about the content of the file.
_TEMPORARY = {
    errno.EHOSTDOWN,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# Pillow warns about images of more than half of the pixels that it allows, and about
# damaged metadata. The warnings do not name the file, and the image is read.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", module=r"PIL\.")


class UnreadableImage(ValueError):
    """A file is not an image, or cannot be decoded; the message names the file."""


class UnavailableImage(OSError):
    """A file cannot be read now, whatever its content; the message names the file."""


@contextlib.contextmanager
def _naming(name: str | os.PathLike) -> Iterator[None]:
    """Turn every error into one that names the file: unreadable, or unavailable now."""
    try:
        yield
    except (UnreadableImage, UnavailableImage):
        raise
    except Exception as error:  # Decoders raise many types for damaged files.
        code = error.errno if isinstance(error, OSError) else None
        if isinstance(error, MemoryError) or code in _TEMPORARY:
            raise UnavailableImage(
                f"{os.fspath(name)} cannot be read now: {_reason(error)}; start the "
                "same command again when the cause is gone, or remove the file"
            ) from error
        raise UnreadableImage(
            f"{os.fspath(name)} cannot be read as an image: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the reason of an error in one line."""
    message = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{message.split(',')[0]}; if you trust the file, set the environment "
            f"variable {MAX_PIXELS} to a larger number of pixels"
        )
    if isinstance(error, OSError):
        return error.strerror or message
    if isinstance(error, ValueError) and message:
        return message
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def decode(encoded: bytes, name: str | os.PathLike = "the image") -> Image.Image:
    """Decode an image to RGB, upright by its EXIF orientation.

    Transparent pixels are composited on white, unless all pixels are transparent.
    `value_range` converts gray images of more than 8 bits to 8 bits.

    Args:
      encoded: content of a file. For an animation, the first image is decoded.
      name: name of the file, for errors.

    Raises:
      UnreadableImage: if `encoded` is not an image, or is damaged or too large.
    """
    with _naming(name):
        image = _open(io.BytesIO(encoded))
        deep = any(re.search(_DEEP, str(tile[-1])) for tile in image.tile)
        image = _load(image, encoded)
        orientation = _orientation(image)
        if image.mode.startswith("I") or image.mode == "F":
            image = value_range.to_8_bits(image, os.fspath(name))
        elif deep:
            value_range.check_colour_depth(image)
        if orientation in _TRANSPOSE_BY_ORIENTATION:
            image = image.transpose(_TRANSPOSE_BY_ORIENTATION[orientation])
        if image.mode in ("La", "RGBa"):  # colours premultiplied by their opacity
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            # Many TGA and BMP files of 32 bits do not use the fourth channel, which is
            # then 0 everywhere. Pillow reads it as alpha nevertheless.
            if image.getchannel("A").getbbox():
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open an image file, without its metadata if Pillow refuses the metadata."""
    _set_max_pixels()
    try:
        return _identify(file)
    except ValueError:
        # Pillow refuses damaged metadata of PNG files, and limits the size of their
        # text and of their colour profiles.
        file.seek(0)
        if file.read(len(_PNG_START)) != _PNG_START:
            raise
        return _identify(_without_metadata(_PNG_START + file.read()))


def _identify(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open an image file.

    Raises:
      ValueError: if Pillow does not know the format; the message describes the content.
    """
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        file.seek(0)
        raise ValueError(_describe_content(file.read(512))) from error


def _load(image: ImageFile.ImageFile, encoded: bytes) -> ImageFile.ImageFile:
    """Read the pixels of an image that `_open` returned, and return the image.

    If Pillow refuses metadata after the pixels, the image is opened without it.
    """
    try:
        image.load()
    except Exception:
        if not encoded.startswith(_PNG_START):
            raise
        image = _identify(_without_metadata(encoded))
        image.load()
    return image


@functools.cache
def _set_max_pixels() -> None:
    """Set the largest number of pixels that Pillow decodes from the environment."""
    text = os.environ.get(MAX_PIXELS)
    if text is None:
        return
    if not text.isdecimal() or not int(text):
        raise ValueError(
            f"the environment variable {MAX_PIXELS} is {text!r}; expected a whole "
            "number of pixels, such as 400000000"
        )
    Image.MAX_IMAGE_PIXELS = -(-int(text) // 2)  # Pillow refuses twice this number.


def _without_metadata(png: bytes) -> io.BytesIO:
    """Return a PNG file with the chunks that its pixels need, and intact EXIF data."""
    kept, start = [_PNG_START], len(_PNG_START)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])
        name = png[start + 4 : start + 8]
        checked, checksum = png[start + 4 : end - 4], png[end - 4 : end]
        if name in _PNG_CHUNKS or (
            name == b"eXIf" and zlib.crc32(checked).to_bytes(4) == checksum
        ):
            kept.append(png[start:end])
        start = end
    return io.BytesIO(b"".join(kept))


def _describe_content(start: bytes) -> str:
    """Describe a file that is not an image of a known format, by its first bytes."""
    start = start.lstrip().lower()
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a pointer of Git LFS; get the image with 'git lfs pull'"
    if start.startswith((b"<!doctype html", b"<html")):
        return "the file is an HTML page; download the image again"
    if start[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif"):
        return "the file is a HEIC image; install pillow-heif to read it"
    return "the file is not an image of a known format"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 if its EXIF data cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many types for damaged EXIF data.
        return 1
    return orientation if isinstance(orientation, int) else 1


def resize(image: Image.Image, shortest_side: int) -> Image.Image:
    """Crop an image to `MAX_ASPECT`, and resize its shortest side, in pixels."""
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


def load_pixels(
    encoded: bytes | Callable[[], bytes],
    shortest_side: int,
    name: str | os.PathLike = "the image",
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode and resize an image.

    Args:
      encoded: content of a file, or a function that reads it.
      shortest_side: shortest side of the result in pixels.
      name: name of the file, for errors.

    Raises:
      UnreadableImage: if the file cannot be read or decoded; the message states the
        name and the reason.
      UnavailableImage: if the disk or the system fails, so that the file may be intact.
    """
    return load_with_size(encoded, shortest_side, name)[0]


def load_with_size(
    encoded: bytes | Callable[[], bytes],
    shortest_side: int,
    name: str | os.PathLike = "the image",
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """Decode and resize an image, and also return its `upright_size`.

    See `load_pixels` for arguments and errors.
    """
    with _naming(name):
        image = decode(encoded() if callable(encoded) else encoded, name)
        return np.asarray(resize(image, shortest_side)), image.size


def upright_size(
    open_file: Callable[[], IO[bytes]], name: str | os.PathLike = "the image"
) -> tuple[int, int]:
    """Read the (width, height) of the upright image from the header of a file.

    Args:
      open_file: function that opens the file.
      name: name of the file, for errors.

    Raises:
      UnreadableImage: if the file cannot be read or is not an image.
      UnavailableImage: if the disk or the system fails, so that the file may be intact.
    """
    with _naming(name), open_file() as file:
        image = _open(file)
        # Newer versions of Pillow turn `size` of a TIFF file, but not its tags.
        tags = getattr(image, "tag_v2", {})
        width = tags.get(ExifTags.Base.ImageWidth, image.width)
        height = tags.get(ExifTags.Base.ImageLength, image.height)
        turned = _orientation(image) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)
