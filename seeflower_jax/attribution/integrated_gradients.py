"""Integrated Gradients: the gradient along the way from a baseline to the picture.

    maps = integrated_gradients(network, images, targets)

Source: Sundararajan et al. 2017, arXiv 1703.01365, equation 1. A picture's map sums to
its score less the baseline's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution.saliency import gradient
from seeflower_jax.attribution.targets import Targets, resolve


def integrated_gradients(
    network: Callable,
    images: jax.Array,
    targets: Targets = None,
    baseline: float | jax.Array = 127.5,
    steps: int = 32,
    spacing: float = 2.0,
) -> jax.Array:
    """Attribution of the score to pixels, signed, summed over the colours, [N, H, W].

    Args:
      network, images, targets: see the package.
      baseline: a picture, or one value for all pixels, without information.
      steps: points of the Gauss-Legendre quadrature. They run one after the other, so
        memory does not grow with them.
      spacing: the way is integrated over u in [0, 1], the picture's share being
        u**spacing: above 1, points are closer near the baseline, where scores change
        fastest; at 1 they are those of the plain quadrature, as captum's.

    Raises:
      ValueError: for a spacing that is not positive.
    """
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing}; expected more than 0, such as 2")
    targets = resolve(network, images, targets)
    difference = images.astype(jnp.float32) - baseline
    points, weights = np.polynomial.legendre.leggauss(steps)

    def add(total, step):
        share, weight = step
        moved = baseline + share * difference
        return total + weight * gradient(network, moved, targets), None

    points, weights = (points + 1) / 2, weights / 2  # on [0, 1]
    along = (
        jnp.array(points**spacing, jnp.float32),
        jnp.array(weights * spacing * points ** (spacing - 1), jnp.float32),
    )
    mean, _ = jax.lax.scan(add, jnp.zeros_like(difference), along)
    return (mean * difference).sum(-1)
