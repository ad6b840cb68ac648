"""Encode images as PNGs, faster than Pillow.

    path.write_bytes(encode(pixels))

Thousands of overlays may be written while the CPU also computes maps. For a photo of
320 x 320 pixels, Pillow takes 4 to 7 ms, most of it to choose a filter for each row.
One filter for all rows and ISA-L's compression take 1 ms, for files of about the same
size.

Source: Portable Network Graphics specification, third edition, sections 5, 9 and 11.
"""

import struct
import zlib

import numpy as np
from jaxtyping import UInt8

try:
    from isal.isal_zlib import compress
except ModuleNotFoundError:  # It has no wheels for some machines.
    from zlib import compress

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _RGB, _DEFLATE, _ADAPTIVE, _NOT_INTERLACED = 8, 2, 0, 0, 0
_UP = 2  # the filter that subtracts the row above
_FAST = 1  # level of compression


def encode(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return the content of a PNG file of an RGB image.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
      >>> bool((np.asarray(Image.open(io.BytesIO(encode(pixels)))) == pixels).all())
      True
    """
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _UP
    flat = pixels.reshape(height, 3 * width)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])  # modulo 256
    header = struct.pack(
        ">IIBBBBB",
        width,
        height,
        *(_BIT_DEPTH, _RGB, _DEFLATE, _ADAPTIVE, _NOT_INTERLACED),
    )
    data = compress(rows, _FAST)
    chunks = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum
