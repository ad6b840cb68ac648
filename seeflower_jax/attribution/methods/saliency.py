"""Saliency: the gradient of the score with respect to the pixels.

Example:
    maps = saliency(network, images, targets)
    maps = guided_saliency(network, images, targets)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution.rules.activations import Guided
from seeflower_jax.attribution.rules.interpreter import with_rules
from seeflower_jax.attribution.targets import probability, score
from seeflower_jax.attribution.types import NetworkFunction, Targets


def gradient(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w 3"]:
    """Compute the gradient of the score, per unit of a pixel value in [0, 255]."""
    return jax.grad(lambda x: score(network(x)[0], targets).sum())(
        images.astype(jnp.float32)
    )


def saliency(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute the largest magnitude of the gradient over the colours.

    Source: Simonyan et al. 2014, arXiv 1312.6034, section 3. The See-Flower
    paper describes the method in section 3.1.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Example:
      >>> saliency(network, images, labels).shape == images.shape[:3]
      True
    """
    return jnp.abs(gradient(network, images, targets)).max(-1)


def signed_saliency(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute the sum of the gradient over the colours.

    A positive value means that a brighter pixel raises the score.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
    """
    return gradient(network, images, targets).sum(-1)


def guided_saliency(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
) -> Float[Array, "n h w"]:
    """Compute saliency by guided backpropagation.

    Rectifiers, max(x, 0), pass on no negative gradient. Other activation functions keep
    their derivative, as in captum.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Raises:
      ValueError: the network has no rectifier, but other activation functions.

    Example:
      >>> guided_saliency(network, images, labels).shape == images.shape[:3]
      True
    """
    return saliency(with_rules(network, Guided()), images, targets)


def paper_saliency(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
) -> Float[Array, "n h w"]:
    """Compute guided saliency of the softmax probability.

    The figures of the See-Flower paper show these maps.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
    """
    return guided_saliency(network, images, probability(targets))
