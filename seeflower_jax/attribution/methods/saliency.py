"""Saliency: the gradient of the score with respect to the pixels.

Example:
    maps = saliency(network, images, targets)
    maps = guided_saliency(network, images, targets)
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution.targets import probability, score
from seeflower_jax.attribution.types import (
    GuidedNetworkFunction,
    NetworkFunction,
    Targets,
)


@jax.custom_vjp
def guided_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the ReLU, with a gradient that lets only positive gradients pass.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4.
    """
    return jax.nn.relu(x)


guided_relu.defvjp(
    lambda x: (jax.nn.relu(x), x),
    lambda x, g: (jnp.where((x > 0) & (g > 0), g, 0),),
)


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
    network: GuidedNetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
) -> Float[Array, "n h w"]:
    """Compute saliency by guided backpropagation.

    No activation function passes on a negative gradient.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4.

    Args:
      network: a network function that also takes `act`, its activation function.
      images, targets: see `seeflower_jax.attribution`.

    Example:
      >>> guided_saliency(network, images, labels).shape == images.shape[:3]
      True
    """
    return saliency(functools.partial(network, act=guided_relu), images, targets)


def paper_saliency(
    network: GuidedNetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
) -> Float[Array, "n h w"]:
    """Compute guided saliency of the softmax probability.

    The figures of the See-Flower paper show these maps.

    Args:
      network: a network function that also takes `act`, its activation function.
      images, targets: see `seeflower_jax.attribution`.
    """
    return guided_saliency(network, images, probability(targets))
