"""Score-CAM: a layer's channels, weighted by the score of the image that they mask.

Example:
    maps = score_cam(network, images, targets, layer="block5_conv3")
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets


def score_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: str,
    baseline: float = 127.5,
    channels: int = 0,
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score, without gradients.

    The method needs one forward pass per channel. The channels run one after the other,
    so memory does not grow with their number.

    Source: Wang et al. 2020, arXiv 1910.01279, equations 3 to 6.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint.
      baseline: value of the pixels that a channel hides.
      channels: number of channels to use; 0 uses all. The method selects the channels
        that vary most within each image.

    Raises:
      ValueError: the layer is unknown or has no spatial extent.

    Example:
      >>> maps = score_cam(network, images, labels, layer="block5_conv3", channels=4)
      >>> maps.shape == images.shape[:3]
      True
    """
    targets = resolve(network, images, targets)
    endpoints = network(images)[1]
    cam.check_layer(endpoints, layer)
    activations = endpoints[layer].astype(jnp.float32)
    if channels:
        count = min(channels, activations.shape[-1])
        _, indices = jax.lax.top_k(activations.var((1, 2)), count)
        activations = jnp.take_along_axis(activations, indices[:, None, None], -1)
    baseline_score = score(network(jnp.full(images.shape, baseline))[0], targets)

    def score_gain(channel):
        mask = cam.upsample(channel, images)
        low = mask.min((1, 2), keepdims=True)
        mask = cam.divide(mask - low, mask.max((1, 2), keepdims=True) - low)[..., None]
        masked_images = baseline + (images - baseline) * mask
        return score(network(masked_images)[0], targets) - baseline_score

    gains = jax.lax.map(score_gain, jnp.moveaxis(activations, -1, 0))
    maps = jax.nn.relu(jnp.einsum("nhwc,cn->nhw", activations, gains))
    return cam.upsample(maps, images)
