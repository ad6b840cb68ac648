"""Masks, boxes and pointing games on maps with a known answer."""

import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution import localisation
from seeflower_jax.data.view import View


def test_boxes_enclose_what_stands_out():
    maps = np.zeros((2, 10, 12), np.float32)
    maps[0, 2:5, 3:9] = 1.0
    maps[0, 7, 1] = 0.1  # below the threshold
    boxes = localisation.bounding_boxes(jnp.array(maps))
    np.testing.assert_array_equal(boxes, [[2, 3, 5, 9], [0, 0, 10, 12]])
    boxes = localisation.bounding_boxes(jnp.array(maps), threshold=0.05)
    np.testing.assert_array_equal(boxes[0], [2, 1, 8, 9])


def test_grid_has_the_images_in_reading_order():
    images = jnp.arange(4.0)[None, :, None, None, None] * jnp.ones((1, 4, 2, 3, 3))
    grid = localisation.grid_images(images)
    assert grid.shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(
        grid[0, :, :, 0], np.kron([[0, 1], [2, 3]], np.ones((2, 3)))
    )


def test_grid_pointing():
    maps = np.zeros((4, 4, 4), np.float32)
    maps[0, 0, 3] = 2.0  # all in cell 1
    maps[1, :2, :2], maps[1, 2:, 2:] = 1.0, 3.0  # a quarter in 0, the rest in 3
    maps[2] = 1.0
    maps[3] = -1.0
    score = localisation.grid_pointing(jnp.array(maps), jnp.array([1, 0, 2, 3]))
    np.testing.assert_allclose(score, [1.0, 0.25, 0.25, 0.25])
    score = localisation.grid_pointing(jnp.array(maps), jnp.array([0, 3, 1, 1]))
    np.testing.assert_allclose(score, [0.0, 0.75, 0.25, 0.25])


def test_squares_hold_their_boxes_and_lie_in_the_image():
    boxes = jnp.array([[2, 3, 5, 9], [0, 0, 2, 2], [0, 0, 10, 10]])
    centers, halves = localisation.squares(boxes, 10, margin=0.25)
    # The first is 6 wide, 9 with its margins; its centre moves to keep it inside.
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
    centers, halves = localisation.squares(jnp.array([[8, 12, 28, 32]]), 40, margin=0)
    crops = View(20, 40).zoom(canvas, sizes, centers, halves)
    np.testing.assert_allclose(crops[0], canvas[0, 8:28, 17:37], atol=1e-3)
    view = View(24, 40, 0.8)
    whole = view.zoom(canvas, sizes, jnp.zeros((1, 2)), jnp.ones(1))
    np.testing.assert_allclose(whole, view(canvas, sizes))


def test_pointing_game():
    maps = np.zeros((4, 3, 3), np.float32)
    maps[0, 1, 2] = maps[1, 0, 0] = 1.0
    maps[2, 0, 0] = maps[2, 1, 2] = 2.0  # one of two
    masks = np.zeros((4, 3, 3), bool)
    masks[:, 1, :] = True
    hits = localisation.pointing_game(jnp.array(maps), jnp.array(masks))
    np.testing.assert_allclose(hits, [1, 0, 0.5, 1 / 3])
