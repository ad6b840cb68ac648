"""From maps to places: masks, boxes, and how well maps point at what they explain.

    boxes = bounding_boxes(maps)                     # [N, 4]
    centers, halves = squares(boxes, maps.shape[1])  # to crop them
    grids = grid_pictures(images)                    # 2 x 2 of four classes each
    scores = grid_pointing(maps_of_grids, cells)     # chance is 0.25
    hits = pointing_game(maps, masks_of_objects)

Sources: masks at 15 % of the largest value, Selvaraju et al. 2017, arXiv 1610.02391,
section 4.1, which boxes the largest connected segment alone, where here the box is
around all of the mask, as flowers come in groups; the grid pointing game, Boehle et al.
2021, arXiv 2104.00032, section 4.2; the pointing game, Zhang et al. 2018, arXiv
1608.00507, section 4.1, here without a tolerance around the object.
"""

import jax
import jax.numpy as jnp

THRESHOLD = 0.15  # share of a map's largest value where what it points at ends


def masks(maps: jax.Array, threshold: float = THRESHOLD) -> jax.Array:
    """Where a map [N, H, W] exceeds a share of its largest value, bool [N, H, W]."""
    return maps > threshold * maps.max((1, 2), keepdims=True)


def bounding_boxes(maps: jax.Array, threshold: float = THRESHOLD) -> jax.Array:
    """The box around each map's mask: top, left, bottom, right, int32 [N, 4].

    Bottom and right are exclusive; an empty mask gives the whole picture.
    """

    def extent(covered):
        """First and last + 1 of the covered places along an axis, [N] each."""
        size = covered.shape[1]
        empty = ~covered.any(1)
        first = jnp.where(empty, 0, covered.argmax(1))
        last = jnp.where(empty, size, size - covered[:, ::-1].argmax(1))
        return first, last

    mask = masks(maps, threshold)
    top, bottom = extent(mask.any(2))
    left, right = extent(mask.any(1))
    return jnp.stack([top, left, bottom, right], -1).astype(jnp.int32)


def squares(
    boxes: jax.Array, side: int, margin: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """The square around each box, moved and cut to lie in the picture.

    Args:
      boxes: of `bounding_boxes`, [N, 4], in a square picture.
      side: of the picture in pixels.
      margin: what is added on each side, as a share of the square's.

    Returns:
      (centers (y, x) [N, 2], halves [N]) in coordinates from -1 to 1, as
      `augment.crop_inside` takes them; half is half of the square's side.
    """
    corners = 2 * boxes.astype(jnp.float32).reshape(-1, 2, 2) / side - 1
    extent = (corners[:, 1] - corners[:, 0]).max(-1) / 2
    halves = jnp.minimum(extent * (1 + 2 * margin), 1)
    room = (1 - halves)[:, None]
    return jnp.clip(corners.mean(1), -room, room), halves


def grid_pictures(images: jax.Array) -> jax.Array:
    """Four pictures each, [N, 4, H, W, 3], in a 2 x 2 grid, [N, 2 H, 2 W, 3]."""
    n, _, height, width, channels = images.shape
    grid = images.reshape(n, 2, 2, height, width, channels).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, 2 * height, 2 * width, channels)


def grid_pointing(maps: jax.Array, cells: jax.Array) -> jax.Array:
    """Share of a map's positive part that lies in the target's cell, [N].

    Args:
      maps: [N, 2 H, 2 W], of 2 x 2 grids.
      cells: int [N], from 0 to 3 in reading order.

    Returns:
      In [0, 1]; a map without a positive part scores chance, 0.25.
    """
    n, height, width = maps.shape
    positive = jax.nn.relu(maps).reshape(n, 2, height // 2, 2, width // 2).sum((2, 4))
    positive = positive.reshape(n, 4)
    own = jnp.take_along_axis(positive, cells[:, None], -1)[:, 0]
    total = positive.sum(-1)
    return jnp.where(total > 0, own / jnp.where(total > 0, total, 1), 0.25)


def pointing_game(maps: jax.Array, masks: jax.Array) -> jax.Array:
    """Whether the largest value of a map lies on the object, [N].

    Args:
      maps: [N, H, W].
      masks: bool [N, H, W], where the object is.

    Returns:
      0 or 1; of a map with several largest values the share of those on the object.
    """
    largest = maps == maps.max((1, 2), keepdims=True)
    return (largest & masks).sum((1, 2)) / largest.sum((1, 2))
