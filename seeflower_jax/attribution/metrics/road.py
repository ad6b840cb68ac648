"""ROAD: the probability of a class while pixels are imputed from their neighbours.

    morf, lerf = road(network, images, maps, labels)              # [shares, N] each
    score = road_combined(network, images, maps, labels)          # [N]

Imputed pixels have no edges around them. Edges would reveal the shape of the removed
area.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float, Int

from seeflower_jax.attribution.metrics.faithfulness import probability_curve
from seeflower_jax.attribution.types import NetworkFunction
from seeflower_jax.models.dtypes import as_float

_WEIGHTS = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12
# Share of the right side of the equations that may remain.
_TOLERANCE = 1e-4
_MOST_STEPS = 1000  # If rounding errors keep the rest large; some 100 are usual.
_SMALLEST = 4  # pixels; smaller images start from the mean colour


def road(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"] | None,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
) -> tuple[Float[Array, "k n"], Float[Array, "k n"]]:
    """Compute the probability of the labels with pixels imputed from their neighbours.

    Source: ROAD, Rong et al. 2022, arXiv 2202.00449, section 4.

    Args:
      network, images, maps, labels: see `faithfulness.deletion`.
      shares: the shares of pixels to remove and impute.

    Returns:
      (MoRF, LeRF): the probabilities with the most relevant pixels removed first, and
      with the least relevant pixels removed first. A good map has a low MoRF and a high
      LeRF. `road_combined` combines both in one number.

    Raises:
      ValueError: there is no share, or a share is not in [0, 1].

    Example:
      >>> morf, lerf = road(network, images, maps, labels, shares=(0.3, 0.6))
      >>> morf.shape == lerf.shape == (2, len(images))
      True
    """
    if len(shares) == 0 or not all(map(_may_be_share, shares)):
        raise ValueError(
            f"shares are {tuple(shares)}; expected one or more shares of the pixels, "
            "from 0 to 1"
        )
    images = as_float(images)
    most_relevant = jnp.array([(0.0, share) for share in shares])
    least_relevant = jnp.array([(1 - share, 2.0) for share in shares])
    impute = jax.vmap(_impute)  # each image until its own solution
    return (
        probability_curve(network, images, maps, labels, most_relevant, impute),
        probability_curve(network, images, maps, labels, least_relevant, impute),
    )


def _may_be_share(value: float) -> bool:
    """Return whether a value is in [0, 1], or is not known because JAX traces it."""
    return isinstance(value, jax.core.Tracer) or bool(0 <= value <= 1)


def combine(morf: Float[Array, "k n"], lerf: Float[Array, "k n"]) -> Float[Array, "n"]:
    """Return the mean of (LeRF - MoRF) / 2 over the shares.

    Example:
      >>> combine(jnp.array([[0.25], [0.5]]), jnp.array([[1.0], [0.75]])).tolist()
      [0.25]
    """
    return ((lerf - morf) / 2).mean(0)


def road_combined(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"] | None,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> Float[Array, "n"]:
    """Combine both orders of ROAD in one number.

    Source: `ROADCombined` of pytorch-grad-cam, which has this formula and these shares.
    The removal of pixels differs in two ways:

    - pytorch-grad-cam adds Gaussian noise (0.01 in the units of its input) to imputed
      pixels. This function adds no noise, so it is deterministic.
    - pytorch-grad-cam removes all pixels above a percentile, so it can remove many more
      pixels where values are equal. This function ranks equal values by position.

    Args:
      network, images, maps, labels, shares: see `road`.

    Returns:
      Values in [-0.5, 0.5]; higher is better, and a random map has 0.

    Raises:
      ValueError: see `road`.

    Example:
      >>> score = road_combined(network, images, maps, labels, shares=(0.5,))
      >>> score.shape == (len(images),)
      True
    """
    return combine(*road(network, images, maps, labels, shares))


def _impute(
    image: Float[Array, "h w c"], removed: Bool[Array, "h w"]
) -> Float[Array, "h w c"]:
    """Replace pixels with the weighted mean of their eight neighbours.

    The weights are 1/6 for direct and 1/12 for diagonal neighbours (equation 4 of
    ROAD). Neighbours outside the image do not count. The result is the solution of
    these equations, to about two grey levels or less. If no pixel remains, all are 0.
    """
    unknown = removed[..., None]
    return _solve(jnp.where(unknown, 0, image), unknown)


def _solve(
    known: Float[Array, "h w c"], unknown: Bool[Array, "h w 1"]
) -> Float[Array, "h w c"]:
    """Solve the equations by conjugate gradients, from an image of half the size."""

    def equations(x):  # symmetric and positive definite
        return jnp.where(unknown, weight * x - _sum_of_neighbours(x), x)

    weight = _sum_of_neighbours(jnp.ones(unknown.shape, known.dtype))
    start = jnp.where(unknown, _guess(known, unknown), 0)
    sums = jnp.where(unknown, _sum_of_neighbours(known), 0)
    atol = _TOLERANCE * jnp.linalg.norm(sums)
    rest = sums - equations(start)
    change, _ = cg(equations, rest, tol=0.0, atol=atol, maxiter=_MOST_STEPS)
    return jnp.where(unknown, start + change, known)


def _guess(
    known: Float[Array, "h w c"], unknown: Bool[Array, "h w 1"]
) -> Float[Array, "h w c"]:
    """Enlarge the solution for cells of 2 by 2 pixels."""
    height, width, colours = known.shape
    if min(height, width) <= _SMALLEST:
        mean = known.sum((0, 1)) / jnp.maximum((~unknown).sum(), 1)
        return jnp.broadcast_to(mean, known.shape)

    def of_cells(values):
        padded = jnp.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
        cells = padded.reshape(-(-height // 2), 2, -(-width // 2), 2, -1)
        return cells.sum((1, 3))

    counts = of_cells(~unknown)
    coarse = _solve(of_cells(known) / jnp.maximum(counts, 1), counts == 0)
    double = (2 * len(coarse), 2 * coarse.shape[1], colours)
    return jax.image.resize(coarse, double, "linear")[:height, :width]


def _sum_of_neighbours(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Return the weighted sum of the eight neighbours of each pixel."""
    height, width, _ = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    neighbours = (
        weight * padded[i : i + height, j : j + width]
        for (i, j), weight in np.ndenumerate(_WEIGHTS)
        if weight
    )
    return functools.reduce(jnp.add, neighbours)
