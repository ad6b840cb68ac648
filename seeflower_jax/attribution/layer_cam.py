"""Layer-CAM: activations weighted by the positive gradient at each place.

    maps = layer_cam(network, images, targets, layer="mixed7")

Source: Jiang et al. 2021, LayerCAM, IEEE TIP 30, equations 6 and 7. It works at lower,
finer layers too.
"""

from collections.abc import Callable

import jax

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import Targets


def layer_cam(
    network: Callable, images: jax.Array, targets: Targets = None, *, layer: str
) -> jax.Array:
    """Where a layer speaks for the target, [N, H, W].

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    activations, gradients = cam.layer_gradients(network, images, targets, layer)
    maps = jax.nn.relu((jax.nn.relu(gradients) * activations).sum(-1))
    return cam.upsample(maps, images)
