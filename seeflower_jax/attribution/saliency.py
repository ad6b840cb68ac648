"""Saliency: the gradient of the score with respect to the picture.

    maps = saliency(network, images, targets)
    maps = guided_saliency(network, images, targets)

Sources: saliency, Simonyan et al. 2014, arXiv 1312.6034, section 3 (the paper's section
3.1); guided backpropagation, Springenberg et al. 2015, arXiv 1412.6806, section 3.4.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seeflower_jax.attribution.targets import Targets, probability, score


@jax.custom_vjp
def guided_relu(x):
    """ReLU that passes on only positive gradients."""
    return jax.nn.relu(x)


guided_relu.defvjp(
    lambda x: (jax.nn.relu(x), x),
    lambda x, g: (jnp.where((x > 0) & (g > 0), g, 0),),
)


def gradient(network: Callable, images: jax.Array, targets: Targets = None):
    """Gradient of the score [N, H, W, 3], per unit of a pixel's value in [0, 255]."""
    return jax.grad(lambda x: score(network(x)[0], targets).sum())(
        images.astype(jnp.float32)
    )


def saliency(
    network: Callable, images: jax.Array, targets: Targets = None
) -> jax.Array:
    """The gradient's largest magnitude over the colours, [N, H, W]."""
    return jnp.abs(gradient(network, images, targets)).max(-1)


def signed_saliency(
    network: Callable, images: jax.Array, targets: Targets = None
) -> jax.Array:
    """The gradient's sum over the colours: what brightening a pixel does, [N, H, W]."""
    return gradient(network, images, targets).sum(-1)


def guided_saliency(
    network: Callable, images: jax.Array, targets: Targets = None
) -> jax.Array:
    """Saliency by guided backpropagation: no layer passes on a negative gradient.

    `network` also takes `act`, its activation function. Returns [N, H, W].
    """
    return saliency(functools.partial(network, act=guided_relu), images, targets)


def paper_saliency(
    network: Callable, images: jax.Array, targets: Targets = None
) -> jax.Array:
    """What the paper's figures show: guided saliency of the softmax, [N, H, W]."""
    return guided_saliency(network, images, probability(targets))
