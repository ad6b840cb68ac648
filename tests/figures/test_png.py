"""Test the encoder of PNGs against Pillow's decoder."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.figures import png


@pytest.mark.parametrize("compress", [png.compress, zlib.compress])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (64, 37)])
def test_pillow_reads_the_same_pixels(shape, compress, monkeypatch):
    monkeypatch.setattr(png, "compress", compress)  # zlib, where isal has no wheel
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for image in (pixels, pixels[::-1, ::-1]):  # also without contiguous rows
        with Image.open(io.BytesIO(png.encode(image))) as decoded:
            assert (decoded.format, decoded.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(decoded), image)
