"""Integrated Gradients: gradients along a straight path from a baseline to the image.

Example:
    maps = integrated_gradients(network, images, targets)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seeflower_jax.attribution.chunks import sum_over
from seeflower_jax.attribution.gradients import gradient
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def integrated_gradients(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    baseline: float | Float[Array, "#n #h #w #3"] = 127.5,
    steps: int = 32,
    spacing: float = 2.0,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the contribution of each pixel to the score, signed, summed over colours.

    The sum of a map approximates the score of the image minus the score of the
    baseline. captum returns a map for each colour, and its default baseline is an input
    of zeros.

    Source: Sundararajan et al. 2017, arXiv 1703.01365, equation 1.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      baseline: an image without information, or one value for all pixels.
      steps: number of points of the Gauss-Legendre quadrature. Memory does not grow
        with this number.
      spacing: density of the points near the baseline. The integral is over u in
        [0, 1], and the weight of the image is u**spacing. Above 1, the points are
        closer near the baseline, where scores change fastest. At 1, they are the points
        of the plain quadrature, as in captum.
      batch_size: number of points at once, for each image.

    Raises:
      ValueError: an option is out of its range.

    Example:
      >>> maps = integrated_gradients(network, images, labels, steps=8)
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(baseline=baseline, steps=steps, spacing=spacing, batch_size=batch_size)
    targets = resolve(network, images, targets)
    difference = as_float(images) - baseline

    def weighted_gradient(point):
        share, weight = point
        mixed_images = baseline + share * difference
        return weight * gradient(network, mixed_images, targets)

    points, weights = np.polynomial.legendre.leggauss(steps)
    points, weights = (points + 1) / 2, weights / 2  # on [0, 1]
    path = (
        jnp.array(points**spacing, difference.dtype),
        jnp.array(weights * spacing * points ** (spacing - 1), difference.dtype),
    )
    mean_gradient = sum_over(weighted_gradient, path, batch_size)
    return (mean_gradient * difference).sum(-1)
