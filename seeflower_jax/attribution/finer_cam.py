"""Finer-CAM: Grad-CAM of what tells a class from the classes most like it.

    maps = finer_cam(network, images, targets, layer="mixed10")

Source: Zhang et al. 2025, arXiv 2501.11309, section 3; made for fine-grained classes,
which share most of what Grad-CAM shows.
"""

from collections.abc import Callable

import jax

from seeflower_jax.attribution.grad_cam import grad_cam
from seeflower_jax.attribution.targets import Targets, contrast


def finer_cam(
    network: Callable,
    images: jax.Array,
    targets: Targets = None,
    *,
    layer: str,
    references: int = 3,
    strength: float = 0.6,
) -> jax.Array:
    """Where a layer speaks for the target and against similar classes, [N, H, W].

    Args:
      network, images: see the package.
      targets: class indices [N], or None for the predicted classes.
      layer: name of an endpoint.
      references: how many similar classes.
      strength: of their subtraction; 0 gives Grad-CAM.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    difference = contrast(targets, references, strength)
    return grad_cam(network, images, difference, layer=layer)
