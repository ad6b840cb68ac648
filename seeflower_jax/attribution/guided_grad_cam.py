"""Guided Grad-CAM: guided backpropagation where Grad-CAM looks.

    maps = guided_grad_cam(network, images, targets, layer="mixed10")

Source: Selvaraju et al. 2017, arXiv 1610.02391, section 3.2.
"""

from collections.abc import Callable

import jax

from seeflower_jax.attribution.grad_cam import grad_cam
from seeflower_jax.attribution.saliency import guided_saliency
from seeflower_jax.attribution.targets import Targets


def guided_grad_cam(
    network: Callable, images: jax.Array, targets: Targets = None, *, layer: str
) -> jax.Array:
    """Guided saliency times Grad-CAM, [N, H, W].

    `network` also takes `act`, its activation function.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    where = grad_cam(network, images, targets, layer=layer)
    return guided_saliency(network, images, targets) * where
