"""Grad-CAM++: channels weighted by their positive gradients, place by place.

    maps = grad_cam_plus_plus(network, images, targets, layer="mixed10")

Source: Chattopadhay et al. 2018, arXiv 1710.11063, equations 5, 6 and 19.
"""

from collections.abc import Callable

import jax

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import Targets


def grad_cam_plus_plus(
    network: Callable, images: jax.Array, targets: Targets = None, *, layer: str
) -> jax.Array:
    """Where a layer speaks for the target, several objects alike, [N, H, W].

    The score is taken as the exponential of the logit, as the source does, whose
    derivatives are powers of the logit's gradient; the factor exp(logit), one per
    picture, is left out.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    activations, gradients = cam.layer_gradients(network, images, targets, layer)
    total = activations.sum((1, 2), keepdims=True)
    alpha = cam.divide(gradients**2, 2 * gradients**2 + total * gradients**3)
    weights = (alpha * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
    return cam.upsample(jax.nn.relu((weights * activations).sum(-1)), images)
