"""Score-CAM: channels weighted by the score of the picture seen through them.

    maps = score_cam(network, images, targets, layer="block5_conv3")

Source: Wang et al. 2020, arXiv 1910.01279, equations 3 to 6. It needs no gradient, but
a forward pass for every channel that is looked through.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import Targets, resolve, score


def score_cam(
    network: Callable,
    images: jax.Array,
    targets: Targets = None,
    *,
    layer: str,
    baseline: float = 127.5,
    channels: int = 0,
) -> jax.Array:
    """Where a layer speaks for the target, [N, H, W].

    Args:
      network, images, targets: see the package.
      layer: name of an endpoint.
      baseline: value of the pixels that a channel hides.
      channels: only so many, of each picture those that vary most within it; 0 is all.
        They run one after the other, so memory does not grow with their number.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    targets = resolve(network, images, targets)
    endpoints = network(images)[1]
    cam.check_layer(endpoints, layer)
    activations = endpoints[layer].astype(jnp.float32)
    if channels:
        count = min(channels, activations.shape[-1])
        _, most = jax.lax.top_k(activations.var((1, 2)), count)
        activations = jnp.take_along_axis(activations, most[:, None, None], -1)
    nothing = score(network(jnp.full(images.shape, baseline))[0], targets)

    def gain(channel):
        mask = cam.upsample(channel, images)
        low = mask.min((1, 2), keepdims=True)
        mask = cam.divide(mask - low, mask.max((1, 2), keepdims=True) - low)[..., None]
        seen = baseline + (images - baseline) * mask
        return score(network(seen)[0], targets) - nothing

    gains = jax.lax.map(gain, jnp.moveaxis(activations, -1, 0))
    maps = jax.nn.relu(jnp.einsum("nhwc,cn->nhw", activations, gains))
    return cam.upsample(maps, images)
