"""A new attribution method: XGrad-CAM.

    python -m scripts.attribute --methods=xgrad_cam ...

The weight of a channel is the mean of its gradient, weighted by its activations.

Source: Fu et al. 2020, arXiv 2008.02312, equation 8.
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, registry
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def xgrad_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where the activations of layers raise the score."""

    def weigh(activations, gradients):
        weighted = (activations * gradients).sum((1, 2), keepdims=True)
        weights = cam.divide(weighted, activations.sum((1, 2), keepdims=True))
        return (weights * activations).sum(-1)

    return cam.class_activation_map(weigh, network, images, targets, layer, align=align)


registry.register("xgrad_cam", registry.Method(xgrad_cam, layered=True))
