"""Localisation: whether maps point at the object, with masks or in grids of images.

    hits = pointing_game(maps, object_masks)         # the maximum is on the object
    shares = energy_pointing_game(maps, object_masks)
    overlaps = mask_iou(maps, object_masks)
    overlaps = box_iou(bounding_boxes(maps), bounding_boxes(object_masks))
    grids = grid_images(images)                      # [N, 4, ...] -> 2 x 2 grids
    shares = grid_pointing(maps_of_grids, cells)     # chance is 0.25

Every function is pure and batched.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from seeflower_jax.attribution.regions import THRESHOLD
from seeflower_jax.attribution.regions import masks as mask_maps
from seeflower_jax.models.dtypes import as_float


def pointing_game(
    maps: Float[Array, "n h w"], masks: Bool[Array, "n h w"]
) -> Float[Array, "n"]:
    """Compute whether the maximum of each map lies on the object.

    The source also counts maxima near the object. This function counts only
    maxima on the object.

    Source: the pointing game, Zhang et al. 2018, arXiv 1608.00507, section 4.1.

    Args:
      maps: maps of images.
      masks: where the object is.

    Returns:
      0 or 1 for each map. A map with several equal maxima scores the share of the
      maxima on the object.

    Example:
      >>> pointing_game(jnp.eye(2)[None], jnp.array([[[True, True], [False, False]]]))
      Array([0.5], dtype=float32)
    """
    is_maximum = maps == maps.max((1, 2), keepdims=True)
    return (is_maximum & masks).sum((1, 2)) / is_maximum.sum((1, 2))


def energy_pointing_game(
    maps: Float[Array, "n h w"], masks: Bool[Array, "n h w"]
) -> Float[Array, "n"]:
    """Compute the share of each map's positive part that lies on the object.

    The source uses the box around the object instead of its mask. `regions.fill` makes
    masks of boxes.

    Source: the energy-based pointing game of Score-CAM, Wang et al. 2020, arXiv
    1910.01279.

    Args:
      maps: maps of images.
      masks: where the object is.

    Returns:
      Values in [0, 1]. Chance is the share of the image that the object covers. A map
      without a positive part scores this share.

    Example:
      >>> mask = jnp.array([[[True, True], [False, False]]])
      >>> energy_pointing_game(jnp.array([[[3.0, -9.0], [1.0, 0.0]]]), mask).tolist()
      [0.75]
    """
    positive = jax.nn.relu(as_float(maps))
    total = positive.sum((1, 2))
    share = (positive * masks).sum((1, 2)) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, share, masks.mean((1, 2)))


def mask_iou(
    maps: Float[Array, "n h w"],
    masks: Bool[Array, "n h w"],
    threshold: float = THRESHOLD,
) -> Float[Array, "n"]:
    """Compute the intersection over union of each thresholded map and the object.

    Args:
      maps: maps of images.
      masks: where the object is.
      threshold: share of the map's maximum that the map exceeds, see `regions.masks`.

    Returns:
      Values in [0, 1]; 0 if both are empty.

    Example:
      >>> mask = jnp.array([[[True, True], [False, False]]])
      >>> mask_iou(jnp.array([[[1.0, 0.0], [0.0, 0.0]]]), mask).tolist()
      [0.5]
    """
    covered = mask_maps(maps, threshold)
    intersection = (covered & masks).sum((1, 2))
    union = (covered | masks).sum((1, 2))
    return intersection / jnp.maximum(union, 1)


def box_iou(first: Int[Array, "n 4"], second: Int[Array, "n 4"]) -> Float[Array, "n"]:
    """Compute the intersection over union of pairs of boxes.

    Args:
      first, second: top, left, bottom and right, as `regions.bounding_boxes` returns.

    Returns:
      Values in [0, 1]; 0 if both are empty.

    Example:
      >>> box_iou(jnp.array([[0, 0, 2, 2]]), jnp.array([[0, 0, 2, 4]])).tolist()
      [0.5]
    """

    def area(low, high):
        return jnp.maximum(high - low, 0).prod(-1)

    (low, high), (other_low, other_high) = (
        (boxes[:, :2], boxes[:, 2:]) for boxes in (first, second)
    )
    shared = area(jnp.maximum(low, other_low), jnp.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - shared
    return shared / jnp.maximum(union, 1)


def grid_images(images: Shaped[Array, "n 4 h w c"]) -> Shaped[Array, "n 2*h 2*w c"]:
    """Arrange every four images in a 2 x 2 grid, in reading order."""
    n, _, height, width, channels = images.shape
    grid = images.reshape(n, 2, 2, height, width, channels).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, 2 * height, 2 * width, channels)


def grid_pointing(
    maps: Float[Array, "n 2*h 2*w"], cells: Int[Array, "n"]
) -> Float[Array, "n"]:
    """Compute the share of a map's positive part that lies in the target's cell.

    Source: the grid pointing game, Boehle et al. 2021, arXiv 2104.00032, section 4.2.

    Args:
      maps: maps of the grids that `grid_images` returns.
      cells: the cell of the target, from 0 to 3 in reading order.

    Returns:
      Values in [0, 1]; chance is 0.25. A map without a positive part scores 0.25.
    """
    n, height, width = maps.shape
    positive = jax.nn.relu(as_float(maps))
    positive = positive.reshape(n, 2, height // 2, 2, width // 2).sum((2, 4))
    positive = positive.reshape(n, 4)
    in_cell = jnp.take_along_axis(positive, cells[:, None], -1)[:, 0]
    total = positive.sum(-1)
    return jnp.where(total > 0, in_cell / jnp.where(total > 0, total, 1), 0.25)
