"""Draw the terms of a network's operations on a canvas of the size of the images.

    maps, scores = draw_terms(network, images, targets, draw_cells)

`rules.full_gradient` defines the terms. `methods.full_grad` draws them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.receptive_field import (
    Centres,
    Place,
    Window,
    axis_centres,
)
from seeflower_jax.attribution.rules.full_gradient import Draw, FullGradient
from seeflower_jax.attribution.rules.interpreter import with_rules
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float

# (terms of the cells, centres of the rows, centres of the columns) -> their map.
DrawCells = Callable[
    [Float[Array, "n rows columns k"], Centres, Centres], Float[Array, "n h w"]
]


def draw_terms(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    draw_cells: DrawCells,
) -> tuple[Float[Array, "n h w"], Float[Array, "n"]]:
    """Draw the terms of the input and of all biases, and add them.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      draw_cells: draws the terms of one operation.

    Returns:
      (maps, scores). Terms without a place in the image are not on the maps.

    Example:
      >>> def draw_cells(terms, rows, columns):
      ...     return cam.upsample(terms.sum(-1), images, (rows, columns))
      >>> maps, scores = draw_terms(network, images, labels, draw_cells)
      >>> maps.shape == images.shape[:3], scores.shape == labels.shape
      (True, True)
    """
    targets, images = resolve(network, images, targets), as_float(images)

    def total_score(canvas):
        rules = FullGradient(canvas, _make_draw(images, draw_cells))
        scores = with_rules(lambda x: score(network(x)[0], targets), rules)(images)
        return scores.sum(), scores

    canvas = jnp.zeros_like(images[..., 0])
    return jax.grad(total_score, has_aux=True)(canvas)


def cell_shares(size: int, centres: Centres) -> Float[np.ndarray, "size cells"]:
    """Return the share of each cell at each pixel; the shares of a cell add up to 1.

    Args:
      size: number of pixels along an axis of the image.
      centres: centres of the cells, in pixels.

    Example:
      >>> cell_shares(4, (0.5, 2.5)).sum(0).tolist()
      [1.0, 1.0]
    """
    weights = cam.interpolation(size, centres)
    # A cell beyond the border may have no weight at any pixel. It goes to the border.
    nearest = np.clip(np.round(centres), 0, size - 1).astype(int)
    beyond = np.eye(size, dtype=np.float32)[:, nearest]
    totals = weights.sum(0)
    return np.where(totals > 0, weights / np.where(totals > 0, totals, 1), beyond)


def _make_draw(images: Float[Array, "n h w 3"], draw_cells: DrawCells) -> Draw:
    """Return the function that draws the terms of an operation at their place."""
    n, height, width, _ = images.shape

    def draw(terms, place: Place | None):
        terms = as_float(terms)
        windows = place or ()
        axes = {window.axis: axis for axis, window in enumerate(windows) if window}
        has_place = terms.size and {0, 1, 2} <= axes.keys()
        if not (has_place and terms.shape[axes[1]] * terms.shape[axes[2]] > 1):
            return None
        terms = _whole_batch(terms, axes[0], windows[axes[0]], n)
        rows, columns = (
            axis_centres(windows[axes[axis]], terms.shape[axes[axis]], size)
            for axis, size in ((1, height), (2, width))
        )
        terms = jnp.moveaxis(terms, (axes[0], axes[1], axes[2]), (0, 1, 2))
        terms = terms.reshape(*terms.shape[:3], -1)
        return draw_cells(terms, rows, columns)

    return draw


def _whole_batch(terms: Array, axis: int, window: Window | None, n: int) -> Array:
    """Return terms in the order of the batch, with zeros for images without terms."""
    rows = axis_centres(window, terms.shape[axis], n)
    if rows == tuple(range(n)):
        return terms
    terms = jnp.moveaxis(terms, axis, 0)
    whole = jnp.zeros((n, *terms.shape[1:]), terms.dtype)
    whole = whole.at[np.array(rows).astype(int)].add(terms)
    return jnp.moveaxis(whole, 0, axis)
