"""Pointing games and overlaps on maps with a known answer."""

import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution import regions
from seeflower_jax.attribution.metrics import localisation


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


def test_pointing_game():
    maps = np.zeros((4, 3, 3), np.float32)
    maps[0, 1, 2] = maps[1, 0, 0] = 1.0
    maps[2, 0, 0] = maps[2, 1, 2] = 2.0  # one of two
    masks = np.zeros((4, 3, 3), bool)
    masks[:, 1, :] = True
    hits = localisation.pointing_game(jnp.array(maps), jnp.array(masks))
    np.testing.assert_allclose(hits, [1, 0, 0.5, 1 / 3])


def test_energy_pointing_game():
    masks = np.zeros((4, 4, 4), bool)
    masks[:, :2, :3] = True
    maps = np.zeros((4, 4, 4), np.float32)
    maps[0, 0, 0], maps[0, 3, 3], maps[0, 0, 3] = 3.0, 1.0, -100.0
    maps[1] = 2.0
    maps[2, 3, 3] = 5.0
    share = localisation.energy_pointing_game(jnp.array(maps), jnp.array(masks))
    # Chance is 6 pixels of 16; the last map is empty.
    np.testing.assert_allclose(share, [0.75, 6 / 16, 0, 6 / 16])


def test_overlaps():
    rng = np.random.default_rng(0)
    masks = rng.uniform(size=(3, 9, 8)) > 0.5
    maps = rng.normal(size=(3, 9, 8)).astype(np.float32)
    covered = maps > 0.4 * maps.max((1, 2), keepdims=True)
    expected = [
        len(a & b) / len(a | b)
        for a, b in (
            [set(np.flatnonzero(x).tolist()) for x in pair]
            for pair in zip(covered, masks, strict=True)
        )
    ]
    iou = localisation.mask_iou(jnp.array(maps), jnp.array(masks), 0.4)
    np.testing.assert_allclose(iou, expected, rtol=1e-6)
    empty = localisation.mask_iou(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 2), bool))
    assert empty.tolist() == [0]


def test_overlaps_of_boxes_are_those_of_their_masks():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 9, (2, 40, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], -1)  # some are empty
    first, second = (regions.fill(jnp.array(b), 9, 9) for b in boxes)
    expected = localisation.mask_iou(first.astype(jnp.float32), second)
    actual = localisation.box_iou(*map(jnp.array, boxes))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert (actual > 0).any() and (actual == 0).any()
