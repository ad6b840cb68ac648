"""Gradients of the score with respect to the pixels.

Example:
    gradients = gradient(network, images, targets)
"""

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution.targets import score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def gradient(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w 3"]:
    """Compute the gradient of the score, per unit of a pixel value in [0, 255].

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Example:
      >>> gradient(network, images, labels).shape == images.shape
      True
    """
    return jax.grad(lambda x: score(network(x)[0], targets).sum())(as_float(images))
