"""XGrad-CAM: a layer's channels, weighted by gradients where they are active.

Example:
    maps = xgrad_cam(network, images, targets, layer="mixed10")
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def xgrad_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score.

    The weight of a channel is the mean of its gradients, each weighted by the
    activation at its position. If no activation is negative, the sum of a map is the
    sum of HiRes-CAM's map, so maps conserve the first-order score.

    To avoid a division by 0, the authors' code adds 1e-6 to the sum of the activations,
    and pytorch-grad-cam 1.5.7 adds 1e-7. Here, a channel whose sum is 0 has the weight
    0. Both codes scale maps to [0, 1].

    Source: Fu et al. 2020, arXiv 2008.02312, equation 8.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: see `cam.class_activation_map`, which explains `layer` and `align`.

    Example:
      >>> maps = xgrad_cam(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """

    def weigh(activations, gradients):
        weighted = (activations * gradients).sum((1, 2), keepdims=True)
        weights = cam.divide(weighted, activations.sum((1, 2), keepdims=True))
        return (weights * activations).sum(-1)

    return cam.class_activation_map(weigh, network, images, targets, layer, align=align)
