"""Smooth random masks: a random grid, resized and shifted.

mask = draw_mask(key, (224, 224), cells=7, visible=0.5)
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.receptive_field import tile_centres
from seeflower_jax.models.dtypes import as_float


def draw_mask(
    key: Key[Array, ""], size: tuple[int, int], cells: int, visible: float
) -> Float[Array, "h w"]:
    """Return a random mask, 1 where pixels are visible and 0 where they are hidden.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, section 3.2.

    Args:
      key: random key of the mask.
      size: height and width in pixels.
      cells: number of cells along each side of the grid.
      visible: probability that a cell is visible.

    Example:
      >>> draw_mask(jax.random.key(0), (64, 48), cells=7, visible=0.5).shape
      (64, 48)
    """
    of_grid, of_rows, of_columns = jax.random.split(key, 3)
    grid = jax.random.bernoulli(of_grid, jnp.float32(visible), (cells, cells))
    shifts = [
        jax.random.randint(key, (), 0, math.ceil(side / cells), "int32")
        for key, side in zip((of_rows, of_columns), size, strict=True)
    ]
    return _resize_grid(as_float(grid), shifts, size)


def _resize_grid(
    grid: Float[Array, "s s"],
    shifts: Sequence[Int[Array, ""]],
    size: tuple[int, int],
) -> Float[Array, "h w"]:
    """Resize a grid to the image plus one cell, and crop it at the shifts."""
    weights = []
    for shift, side in zip(shifts, size, strict=True):
        resized = (len(grid) + 1) * math.ceil(side / len(grid))
        whole = cam.interpolation(resized, tile_centres(len(grid), resized))
        weights.append(jax.lax.dynamic_slice_in_dim(jnp.array(whole), shift, side))
    rows, columns = weights
    return jnp.einsum("hr,rc,wc->hw", rows, grid, columns, precision="highest")
