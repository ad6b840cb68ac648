"""Saliency: the gradient of the score with respect to the pixels.

Example:
    maps = saliency(network, images, targets)
    maps = guided_saliency(network, images, targets)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution.gradients import gradient
from seeflower_jax.attribution.rules.activations import Guided
from seeflower_jax.attribution.rules.interpreter import with_rules
from seeflower_jax.attribution.targets import probability
from seeflower_jax.attribution.types import NetworkFunction, Targets


def saliency(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute the largest magnitude of the gradient over the colours.

    captum returns the magnitude of each colour. The gradients of captum are per unit of
    the network's input. The gradients here are per unit of a pixel value.

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

    A positive value means that a brighter pixel raises the score. With `abs=False`,
    captum returns the gradient of each colour.

    Source: Simonyan et al. 2014, arXiv 1312.6034, equation 4, summed over colours.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
    """
    return gradient(network, images, targets).sum(-1)


def guided_saliency(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute saliency by guided backpropagation.

    Rectifiers, max(x, 0), pass on no negative gradient. Other activation functions keep
    their derivative, as in captum. captum changes modules of ReLU only, and this
    function also changes rectifiers that are called as functions. captum returns the
    signed gradient of each colour.

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
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute guided saliency of the softmax probability.

    The author's code computes these maps by keras-vis, from images whose values it
    multiplies by 255. Here, the network sees the images as in its training.

    Source: Qu 2018, the See-Flower paper, figure 4.5, and the author's code, which
    explains the probability by guided backpropagation, unlike section 3.1.

    Args:
      network, images, targets: see `seeflower_jax.attribution`. A function of the
        logits, such as `targets.probability`, is explained as it is.
    """
    score = targets if callable(targets) else probability(targets)
    return guided_saliency(network, images, score)
