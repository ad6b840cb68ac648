"""Decoding of images."""

import io

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import decode


def _encode(array, file_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, file_format, **options)
    return buffer.getvalue()


def test_long_images_are_cut_to_their_centre():
    image = Image.fromarray(np.arange(100, dtype=np.uint8)[None].repeat(10, 0))
    cut = np.asarray(decode.resize(image, 10))
    assert cut.shape == (10, 20) and cut[0, 0] == 40 and cut[0, -1] == 59


def test_all_kinds_of_images_become_rgb():
    gray = np.full((4, 6), 100, np.uint8)
    assert np.asarray(decode.decode(_encode(gray))).tolist()[0][0] == [100] * 3
    deep = np.full((4, 6), 100 * 256, np.uint16)
    assert np.asarray(decode.decode(_encode(deep))).tolist()[0][0] == [100] * 3
    clear = np.zeros((4, 6, 4), np.uint8)  # transparent black is shown on white
    assert np.asarray(decode.decode(_encode(clear))).min() == 255
    real = np.full((4, 6), 100, np.float32)
    real[1, 2] = np.nan  # becomes black
    assert np.asarray(decode.decode(_encode(real, "TIFF"))).tolist()[1][1:3] == [
        *([100] * 3, [0] * 3)
    ]
    buffer = io.BytesIO()
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(buffer, "JPEG")
    red = np.asarray(decode.decode(buffer.getvalue()))
    assert red.shape == (4, 6, 3) and red[..., 0].min() > red[..., 1].max()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "JPEG", exif=exif)
    assert decode.decode(buffer.getvalue()).size == (10, 20)
    assert decode.upright_size(buffer) == (10, 20)


@pytest.mark.parametrize("encoded", [b"", b"no image", _encode(np.eye(9) > 0)[:40]])
def test_what_is_not_an_image(encoded):
    with pytest.raises(decode.UnreadableImage):
        decode.load_pixels(encoded, 8)


@pytest.mark.parametrize("size", [(10, 50), (31, 7), (8, 8), (1, 1), (1, 400)])
def test_pixels_have_the_shortest_side(size):
    pixels = decode.load_pixels(_encode(np.zeros((*size, 3), np.uint8)), 16)
    assert min(pixels.shape[:2]) == 16
    assert max(pixels.shape[:2]) <= decode.longest_side(16)
