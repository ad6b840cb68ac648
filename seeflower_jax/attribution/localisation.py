"""Localisation: masks and boxes from maps, and metrics of where maps point.

    boxes = bounding_boxes(maps)                     # [N, 4]
    centers, halves = squares(boxes, maps.shape[1])  # squares to crop
    grids = grid_images(images)                      # [N, 4, ...] -> 2 x 2 grids
    scores = grid_pointing(maps_of_grids, cells)     # chance is 0.25
    hits = pointing_game(maps, object_masks)

Every function is pure and batched.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

THRESHOLD = 0.15  # a mask holds the pixels above this share of the map's maximum


def masks(
    maps: Float[Array, "n h w"], threshold: float = THRESHOLD
) -> Bool[Array, "n h w"]:
    """Return where each map exceeds a share of its maximum.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 4.1, for the threshold of
    15 %.
    """
    return maps > threshold * maps.max((1, 2), keepdims=True)


def bounding_boxes(
    maps: Float[Array, "n h w"], threshold: float = THRESHOLD
) -> Int[Array, "n 4"]:
    """Return the bounding box of each map's mask: top, left, bottom, right.

    The source draws a box around the largest connected segment only. This function
    encloses the whole mask, because flowers come in groups.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 4.1.

    Args:
      maps: maps of images.
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
    corners = 2 * boxes.astype(jnp.float32).reshape(-1, 2, 2) / side - 1
    half_extent = (corners[:, 1] - corners[:, 0]).max(-1) / 2
    halves = jnp.minimum(half_extent * (1 + 2 * margin), 1)
    limit = (1 - halves)[:, None]
    return jnp.clip(corners.mean(1), -limit, limit), halves


def grid_images(images: Shaped[Array, "n 4 h w c"]) -> Shaped[Array, "n 2*h 2*w c"]:
    """Arrange four images each in a 2 x 2 grid, in reading order."""
    n, _, height, width, channels = images.shape
    grid = images.reshape(n, 2, 2, height, width, channels).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, 2 * height, 2 * width, channels)


def grid_pointing(
    maps: Float[Array, "n 2*h 2*w"], cells: Int[Array, "n"]
) -> Float[Array, "n"]:
    """Compute the share of a map's positive part that lies in the target's cell.

    Source: the grid pointing game, Boehle et al. 2021, arXiv 2104.00032, section 4.2.

    Args:
      maps: maps of images of `grid_images`.
      cells: the cell of the target, from 0 to 3 in reading order.

    Returns:
      Values in [0, 1]; chance is 0.25. A map without a positive part scores 0.25.
    """
    n, height, width = maps.shape
    positive = jax.nn.relu(maps).reshape(n, 2, height // 2, 2, width // 2).sum((2, 4))
    positive = positive.reshape(n, 4)
    in_cell = jnp.take_along_axis(positive, cells[:, None], -1)[:, 0]
    total = positive.sum(-1)
    return jnp.where(total > 0, in_cell / jnp.where(total > 0, total, 1), 0.25)


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
