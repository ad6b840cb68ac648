"""What a network sees of an image."""

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import decode, loader
from seeflower_jax.data.view import View


def gradient_image(height, width):
    """Return an image whose three channels vary along y, x and both."""
    y, x = np.mgrid[:height, :width]
    channels = [y * 255 / height, x * 255 / width, (x + y) % 256]
    return np.stack(channels, -1).astype(np.uint8)


def _see(view, image, canvas_side=None, **options):
    side = canvas_side or max(image.shape)
    batch = loader.to_canvas([image], side, side)
    return np.asarray(view(batch["canvas"], batch["sizes"], **options)[0])


def _pillow(image, size, box):
    resized = Image.fromarray(image).resize((size,) * 2, Image.Resampling.BILINEAR, box)
    return np.asarray(resized, np.float32)


@pytest.mark.parametrize("height,width", [(20, 30), (30, 20)])
def test_at_full_size_it_is_the_central_square_itself(height, width):
    image = gradient_image(height, width)
    y, x = (height - 20) // 2, (width - 20) // 2
    expected = image[y : y + 20, x : x + 20]
    view = View(20, 20)
    np.testing.assert_allclose(_see(view, image), expected, atol=1e-3)
    mirrored = _see(view, image, mirror=True)
    np.testing.assert_allclose(mirrored, expected[:, ::-1], atol=1e-3)


@pytest.mark.parametrize("size", [9, 33, 40, 100])
@pytest.mark.parametrize("crop", [1.0, 0.8])
def test_it_resamples_as_pillow_does(size, crop):
    """It is antialiased when it shrinks, and reads the pixels around the crop."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    margin = 40 * (1 - crop) / 2
    box = (10 + margin, margin, 50 - margin, 40 - margin)
    # Pillow rounds to integers, twice.
    expected = _pillow(image, size, box)
    assert np.abs(_see(View(size, 40, crop), image) - expected).max() <= 1.01


def test_squashed_images_are_whole():
    image = gradient_image(16, 24)
    expected = _pillow(image, 48, (0, 0, 24, 16))
    view = View(48, 16, keep_aspect=False)
    assert np.abs(_see(view, image) - expected).max() <= 1.01


@pytest.mark.parametrize("size", [10, 24])
def test_the_rest_of_the_canvas_does_not_matter(size):
    image = gradient_image(16, 22)
    view = View(size, 16)
    np.testing.assert_allclose(
        _see(view, image, 22), _see(view, image, 50), rtol=1e-5, atol=1e-3
    )
    white = np.full((16, 16, 3), 255, np.uint8)
    np.testing.assert_allclose(_see(view, white, 50), 255, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("shape", [(20, 40), (39, 20), (21, 20), (20, 23)])
@pytest.mark.parametrize("size,crop", [(10, 1.0), (20, 0.8), (50, 1.0), (7, 0.6)])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_what_is_trimmed_is_not_seen(shape, size, crop, keep_aspect):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    view = View(size, 20, crop, keep_aspect)
    trimmed = view.trim(image)
    assert max(trimmed.shape) <= view.canvas_side
    if keep_aspect:
        assert max(trimmed.shape) <= view.canvas_side <= 20 + 2 * 5 + 1
    seen = _see(view, trimmed, view.canvas_side)
    np.testing.assert_allclose(seen, _see(view, image), rtol=1e-5, atol=1e-3)


def test_zoom_is_a_part_of_the_view_as_large_as_the_whole():
    image = gradient_image(40, 40)
    batch = loader.to_canvas([image], 40, 40)
    part = View(20, 40).zoom(
        batch["canvas"], batch["sizes"], np.array([[-0.5, 0.5]]), np.array([0.5])
    )[0]
    expected = image[0:20, 20:40].astype(np.float32)
    np.testing.assert_allclose(part, expected, atol=1e-2)


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("size", [(300, 200), (180, 260), (240, 240), (900, 200)])
def test_a_box_in_the_view_is_that_of_the_original(size, keep_aspect):
    width, height = size
    box = [width // 2 - 70, height // 2 - 60, width // 2 + 10, height // 2 + 40]
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    original = Image.fromarray(pixels).convert("RGB")
    view = View(128, 160, 0.8, keep_aspect)
    seen = _see(view, np.asarray(decode.resize(original, 160)))[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 128
    # A pixel of the view covers up to 2.5 pixels of the widest image.
    assert np.abs(np.subtract(view.box_in_original(edges, size), box)).max() <= 3
    whole = View(128, 160, 1.0, keep_aspect).box_in_original([0, 0, 1, 1], size)
    side = min(width, 2 * height) if not keep_aspect else min(size)
    assert whole[2] - whole[0] == side and whole[0] == (width - side) / 2


@pytest.mark.parametrize(
    "values,message",
    [
        ({"size": 0}, "size 0; expected 1 to 16384 pixels"),
        ({"size": 2**14 + 1}, "size 16385; expected 1 to 16384 pixels"),
        ({"shortest_side": -1}, "shortest_side -1"),
        ({"crop": 1.2}, "crop 1.2; expected a share above 0, at most 1"),
        ({"crop": 0.0}, "crop 0.0"),
        ({"crop": float("nan")}, "crop nan"),
    ],
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        View(**{"size": 20, "shortest_side": 20} | values)


def test_dict_restores_it():
    view = View(224, 320, 0.875, False)
    assert View(**view.to_dict()) == view
