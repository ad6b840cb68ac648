"""Masks, boxes and squares on maps with a known answer."""

import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution import regions
from seeflower_jax.data.view import View


def test_boxes_enclose_what_stands_out():
    maps = np.zeros((2, 10, 12), np.float32)
    maps[0, 2:5, 3:9] = 1.0
    maps[0, 7, 1] = 0.1  # below the threshold
    boxes = regions.bounding_boxes(jnp.array(maps))
    np.testing.assert_array_equal(boxes, [[2, 3, 5, 9], [0, 0, 10, 12]])
    boxes = regions.bounding_boxes(jnp.array(maps), threshold=0.05)
    np.testing.assert_array_equal(boxes[0], [2, 1, 8, 9])


def test_squares_hold_their_boxes_and_lie_in_the_image():
    boxes = jnp.array([[2, 3, 5, 9], [0, 0, 2, 2], [0, 0, 10, 10]])
    centers, halves = regions.squares(boxes, 10, margin=0.25)
    # The first square is 6 wide, and 9 with its margins. It moves to stay inside.
    np.testing.assert_allclose(halves, [0.9, 0.3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(centers[0], [-0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose(centers[1], [-0.7, -0.7], rtol=1e-6)
    np.testing.assert_allclose(centers[2], [0, 0], atol=1e-6)


def test_the_crop_of_a_square_shows_what_was_in_the_box():
    rng = np.random.default_rng(0)
    canvas = np.zeros((1, 40, 60, 3), np.uint8)
    canvas[:, :40, :50] = rng.integers(0, 256, (1, 40, 50, 3))
    sizes = jnp.array([[40, 50]])
    # The upper left corner of the central square is at (0, 5).
    centers, halves = regions.squares(jnp.array([[8, 12, 28, 32]]), 40, margin=0)
    crops = View(20, 40).zoom(canvas, sizes, centers, halves)
    np.testing.assert_allclose(crops[0], canvas[0, 8:28, 17:37], atol=1e-3)
    view = View(24, 40, 0.8)
    whole = view.zoom(canvas, sizes, jnp.zeros((1, 2)), jnp.ones(1))
    np.testing.assert_allclose(whole, view(canvas, sizes))


def test_filled_boxes_are_the_masks():
    masks = np.zeros((2, 6, 7), bool)
    masks[0, 1:4, 2:7] = masks[1, 5:, :1] = True
    boxes = regions.bounding_boxes(jnp.array(masks))
    np.testing.assert_array_equal(boxes, [[1, 2, 4, 7], [5, 0, 6, 1]])
    np.testing.assert_array_equal(regions.fill(boxes, 6, 7), masks)
