"""HiRes-CAM: activations times gradients, place by place.

    maps = hires_cam(network, images, targets, layer="mixed10")

Source: Draelos and Carin 2020, arXiv 2011.08891, equation 5. Without averaging the
gradients, a map shows what the layers above did use.
"""

from collections.abc import Callable

import jax

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import Targets


def hires_cam(
    network: Callable, images: jax.Array, targets: Targets = None, *, layer: str
) -> jax.Array:
    """What each place of a layer adds to the score to first order, [N, H, W], signed.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    activations, gradients = cam.layer_gradients(network, images, targets, layer)
    return cam.upsample((gradients * activations).sum(-1), images)
