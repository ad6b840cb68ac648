"""Grad-CAM++: a layer's channels, weighted by their positive gradients per position.

Example:
    maps = grad_cam_plus_plus(network, images, targets, layer="mixed10")
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def grad_cam_plus_plus(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score, also for several objects.

    As in the source, the explained score is the exponential of the logit. Its
    derivatives are powers of the logit's gradient times exp(logit). The function omits
    the factor exp(logit), which is constant within an image.

    The authors' code divides the coefficients of equation 19 by their sum over the
    positions of a channel. pytorch-grad-cam 1.5.7 instead adds 1e-6 to the denominators
    of the coefficients. Both codes scale maps to [0, 1].

    Source: Chattopadhay et al. 2018, arXiv 1710.11063, equations 5, 6 and 19.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: see `cam.class_activation_map`, which explains `layer` and `align`.

    Example:
      >>> maps = grad_cam_plus_plus(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """

    def weigh(activations, gradients):
        total = activations.sum((1, 2), keepdims=True)
        # Equation 19 after division by gradients**2, which could underflow.
        alpha = cam.divide(jnp.ones_like(gradients), 2 + total * gradients)
        weights = (alpha * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
        return (weights * activations).sum(-1)

    # The weights are sums over the cells. Grad-CAM's weights are means.
    return cam.class_activation_map(
        weigh, network, images, targets, layer, align=align, per_cell=False
    )
