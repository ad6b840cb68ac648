"""FullGrad: the terms of the input and of all biases of a network, on the image.

Example:
    maps = full_grad(network, images, targets)
    maps, rest = full_gradients(network, images, targets)   # signed; sum is the score
"""

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


def full_grad(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute the sum of the terms of the input and of all biases, without signs.

    The terms of each operation are scaled to [0, 1] by their largest and smallest
    magnitude, and then resized to the image. So all operations have the same weight.

    Differences from the source: the biases of preprocessing belong to the input. Terms
    lie at the centres of their receptive fields. The authors' code has one term for
    each bias of a convolution or batch normalisation. Here, everything that is added
    before the next activation is one term. Activations other than ReLU have implicit
    biases. pytorch-grad-cam 1.5.7 scales each channel separately. On a small network,
    its maps of two images correlate with these maps at 0.86 and 0.88.

    Source: Srinivas and Fleuret 2019, arXiv 1905.00780, equation 6, and the authors'
    code for the scale. `rules.full_gradient` defines the terms.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Example:
      >>> full_grad(network, images, labels).shape == images.shape[:3]
      True
    """

    def draw(terms, rows, columns):
        terms = jnp.abs(terms)
        low, high = (f((1, 2, 3), keepdims=True) for f in (terms.min, terms.max))
        total = cam.divide(terms - low, high - low).sum(-1)
        return cam.upsample(total, images, (rows, columns))

    return _differentiate(network, images, targets, draw)[0]


def full_gradients(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> tuple[Float[Array, "n h w"], Float[Array, "n"]]:
    """Compute the terms of the input and of all biases, with signs and units.

    Source: Srinivas and Fleuret 2019, arXiv 1905.00780, proposition 1.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Returns:
      (maps, rest). The rest [n] is the sum of the terms without a place in the image,
      such as the biases of the head. The sum of a map plus the rest is the score.

    Example:
      >>> maps, rest = full_gradients(network, images, labels)
      >>> logits = jnp.take_along_axis(network(images)[0], labels[:, None], 1)[:, 0]
      >>> bool(jnp.allclose(maps.sum((1, 2)) + rest, logits, rtol=1e-3))
      True
    """

    def draw(terms, rows, columns):
        by_row, by_column = (
            _shares(size, centres)
            for size, centres in zip(images.shape[1:3], (rows, columns), strict=True)
        )
        total = terms.sum(-1)
        return jnp.einsum(
            "nrc,hr,wc->nhw", total, by_row, by_column, precision="highest"
        )

    return _differentiate(network, images, targets, draw)


def _shares(size: int, centres: Centres) -> Float[np.ndarray, "size cells"]:
    """Return the share of each cell at each pixel; the shares of a cell add up to 1."""
    weights = cam.interpolation(size, centres)
    # A cell beyond the border may have no weight at any pixel. It goes to the border.
    nearest = np.clip(np.round(centres), 0, size - 1).astype(int)
    beyond = np.eye(size, dtype=np.float32)[:, nearest]
    totals = weights.sum(0)
    return np.where(totals > 0, weights / np.where(totals > 0, totals, 1), beyond)


def _differentiate(network, images, targets, draw_cells):
    """Return the gradients of the canvas and of the rest, see `FullGradient`."""
    targets, images = resolve(network, images, targets), images.astype(jnp.float32)

    def total_score(canvas, rest):
        rules = FullGradient(canvas, rest, _make_draw(images, draw_cells))
        return with_rules(lambda x: score(network(x)[0], targets), rules)(images).sum()

    zeros = jnp.zeros(images.shape[:3]), jnp.zeros(len(images))
    return jax.grad(total_score, (0, 1))(*zeros)


def _make_draw(images: Float[Array, "n h w 3"], draw_cells) -> Draw:
    """Return the function that draws the terms of an operation at their place."""
    n, height, width, _ = images.shape

    def draw(terms, place: Place | None):
        terms = terms.astype(jnp.float32)
        windows = place or ()
        axes = {window.axis: axis for axis, window in enumerate(windows) if window}
        if not terms.size:
            return jnp.zeros(images.shape[:3]), jnp.zeros(n)
        if 0 in axes and terms.shape[axes[0]] != n:
            terms = _whole_batch(terms, axes[0], windows[axes[0]], n)
        has_place = {0, 1, 2} <= axes.keys()
        if not (has_place and terms.shape[axes[1]] * terms.shape[axes[2]] > 1):
            terms = jnp.moveaxis(terms, axes.get(0, 0), 0).reshape(n, -1)
            return jnp.zeros(images.shape[:3]), terms.sum(1)
        rows, columns = (
            axis_centres(windows[axes[axis]], terms.shape[axes[axis]], size)
            for axis, size in ((1, height), (2, width))
        )
        terms = jnp.moveaxis(terms, (axes[0], axes[1], axes[2]), (0, 1, 2))
        terms = terms.reshape(*terms.shape[:3], -1)
        return draw_cells(terms, rows, columns), jnp.zeros(n)

    return draw


def _whole_batch(terms: Array, axis: int, window: Window | None, n: int) -> Array:
    """Return the terms of a part of a batch, with zeros for the other images."""
    rows = np.array(axis_centres(window, terms.shape[axis], n)).astype(int)
    terms = jnp.moveaxis(terms, axis, 0)
    whole = jnp.zeros((n, *terms.shape[1:])).at[rows].add(terms)
    return jnp.moveaxis(whole, 0, axis)
