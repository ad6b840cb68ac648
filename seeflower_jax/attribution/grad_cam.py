"""Grad-CAM: a layer's channels, weighted by their mean gradient.

    maps = grad_cam(network, images, targets, layer="mixed10")

Source: Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2 (the paper's section
3.3).
"""

from collections.abc import Callable

import jax

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import Targets


def grad_cam(
    network: Callable,
    images: jax.Array,
    targets: Targets = None,
    *,
    layer: str,
    relu: bool = True,
) -> jax.Array:
    """Where a layer speaks for the target, [N, H, W].

    Args:
      network, images, targets: see the package.
      layer: name of an endpoint.
      relu: whether what speaks against the target is set to 0, as in equation 2.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    activations, gradients = cam.layer_gradients(network, images, targets, layer)
    maps = (gradients.mean((1, 2), keepdims=True) * activations).sum(-1)
    return cam.upsample(jax.nn.relu(maps) if relu else maps, images)
