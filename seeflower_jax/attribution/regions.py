"""Masks, boxes and squares around what a map highlights.

    boxes = bounding_boxes(maps)                     # [N, 4]
    centers, halves = squares(boxes, maps.shape[1])  # squares to crop

Every function is pure and batched. `metrics.localisation` compares masks and boxes with
the object in the image.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seeflower_jax.models.dtypes import as_float

THRESHOLD = 0.15  # a mask holds the pixels above this share of the map's maximum


def masks(
    maps: Float[Array, "n h w"], threshold: float = THRESHOLD
) -> Bool[Array, "n h w"]:
    """Return where each map exceeds a share of its maximum.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 4.1, for the threshold of
    15 %.
    """
    maps = as_float(maps)
    return maps > threshold * maps.max((1, 2), keepdims=True)


def bounding_boxes(
    maps: Float[Array, "n h w"], threshold: float = THRESHOLD
) -> Int[Array, "n 4"]:
    """Return the bounding box of each map's mask: top, left, bottom, right.

    The source draws a box around the largest connected segment only. This function
    encloses the whole mask, because flowers come in groups.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 4.1.

    Args:
      maps: maps of images, or masks.
      threshold: the share of the maximum that a map exceeds within the mask.

    Returns:
      Boxes in pixels, int32. Bottom and right are exclusive. The box of an empty mask
      is the whole image.

    Example:
      >>> bounding_boxes(jnp.zeros((1, 8, 8)).at[0, 2:5, 3:4].set(1.0)).tolist()
      [[2, 3, 5, 4]]
    """

    def extent(is_covered: Bool[Array, "n size"]):
        """Return the first covered index and the last one plus 1, [N] each."""
        size = is_covered.shape[1]
        is_empty = ~is_covered.any(1)
        first = jnp.where(is_empty, 0, is_covered.argmax(1))
        last = jnp.where(is_empty, size, size - is_covered[:, ::-1].argmax(1))
        return first, last

    mask = masks(maps, threshold)
    top, bottom = extent(mask.any(2))
    left, right = extent(mask.any(1))
    return jnp.stack([top, left, bottom, right], -1).astype(jnp.int32)


def fill(boxes: Int[Array, "n 4"], height: int, width: int) -> Bool[Array, "n h w"]:
    """Return the mask of each box: top, left, bottom, right in pixels.

    Example:
      >>> fill(jnp.array([[0, 1, 1, 3]]), 2, 3).tolist()
      [[[False, True, True], [False, False, False]]]
    """
    top, left, bottom, right = boxes.T[:, :, None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (top <= rows) & (rows < bottom)
    in_columns = (left <= columns) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None]


def squares(
    boxes: Int[Array, "n 4"], side: int, margin: float = 0.1
) -> tuple[Float[Array, "n 2"], Float[Array, "n"]]:
    """Return the square around each box, moved and cut to lie within the image.

    Args:
      boxes: boxes of `bounding_boxes`, in a square image.
      side: side of the image in pixels.
      margin: margin on each side, as a share of the square's side.

    Returns:
      (centers, halves): the centres (y, x) and half the sides of the squares, in
      coordinates from -1 to 1. `seeflower_jax.data` crops images by such squares.

    Example:
      >>> centers, halves = squares(jnp.array([[0, 0, 4, 4]]), 8, margin=0.0)
      >>> centers.tolist(), halves.tolist()
      ([[-0.5, -0.5]], [0.5])
    """
    corners = 2 * as_float(boxes).reshape(-1, 2, 2) / side - 1
    half_extent = (corners[:, 1] - corners[:, 0]).max(-1) / 2
    halves = jnp.minimum(half_extent * (1 + 2 * margin), 1)
    limit = (1 - halves)[:, None]
    return jnp.clip(corners.mean(1), -limit, limit), halves
