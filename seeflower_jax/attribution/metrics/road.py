"""ROAD: the probability of a class while pixels are imputed from their neighbours.

    morf, lerf = road(network, images, maps, labels)              # [shares, N] each
    score = road_combined(network, images, maps, labels)          # [N]

Imputed pixels have no edges around them. Edges would reveal the shape of the removed
area.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seeflower_jax.attribution.metrics.faithfulness import probability_curve
from seeflower_jax.attribution.types import NetworkFunction


def road(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"],
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

    Example:
      >>> morf, lerf = road(network, images, maps, labels, shares=(0.3, 0.6))
      >>> morf.shape == lerf.shape == (2, len(images))
      True
    """
    images = images.astype(jnp.float32)
    most_relevant = jnp.array([(0.0, share) for share in shares])
    least_relevant = jnp.array([(1 - share, 2.0) for share in shares])
    return (
        probability_curve(network, images, maps, labels, most_relevant, _impute),
        probability_curve(network, images, maps, labels, least_relevant, _impute),
    )


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
    labels: Int[Array, "n"],
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> Float[Array, "n"]:
    """Combine both orders of ROAD in one number.

    Source: `ROADCombined` of pytorch-grad-cam, which has this formula and these shares.
    The removal of pixels differs in three ways:

    - pytorch-grad-cam solves the linear system of the imputation exactly. This function
      runs 60 Jacobi iterations, so large removed areas stay near the mean colour.
    - pytorch-grad-cam adds Gaussian noise (0.01 in the units of its input) to imputed
      pixels. This function adds no noise, so it is deterministic.
    - pytorch-grad-cam removes all pixels above a percentile, so it can remove many more
      pixels where values are equal. This function ranks equal values by position.

    Args:
      network, images, maps, labels, shares: see `road`.

    Returns:
      Values in [-0.5, 0.5]; higher is better, and a random map has 0.

    Example:
      >>> score = road_combined(network, images, maps, labels, shares=(0.5,))
      >>> score.shape == (len(images),)
      True
    """
    return combine(*road(network, images, maps, labels, shares))


def _impute(
    images: Float[Array, "n h w c"],
    removed: Bool[Array, "n h w"],
    iterations: int = 60,
) -> Float[Array, "n h w c"]:
    """Replace pixels with the weighted mean of their eight neighbours.

    The weights are 1/6 for direct and 1/12 for diagonal neighbours (equation 4 of
    ROAD). Jacobi iterations solve the linear system. They start from the mean colour of
    the remaining pixels.
    """
    removed = removed[..., None]
    colour_sum = jnp.where(removed, 0, images).sum((1, 2), keepdims=True)
    count = jnp.maximum((~removed).sum((1, 2), keepdims=True), 1)
    weights = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12

    def smooth(images, _):
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        height, width = images.shape[1:3]
        mean = sum(
            weights[i, j] * padded[:, i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
            if weights[i, j]
        )
        return jnp.where(removed, mean, images), None

    imputed = jnp.where(removed, colour_sum / count, images)
    return jax.lax.scan(smooth, imputed, None, iterations)[0]
