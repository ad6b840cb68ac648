"""A new attribution method: XGrad-CAM.

    python -m scripts.attribute --methods=xgrad_cam ...

The weight of a channel is the mean of its gradient, weighted by its activations.

Source: Fu et al. 2020, arXiv 2008.02312, equation 8.
"""

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, registry
from seeflower_jax.attribution.types import NetworkFunction, Targets


def xgrad_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: str,
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score."""
    activations, gradients = cam.layer_gradients(network, images, targets, layer)
    weighted = (activations * gradients).sum((1, 2), keepdims=True)
    weights = cam.divide(weighted, activations.sum((1, 2), keepdims=True))
    return cam.upsample(jax.nn.relu((weights * activations).sum(-1)), images)


registry.register("xgrad_cam", registry.Method(xgrad_cam, layered=True))
