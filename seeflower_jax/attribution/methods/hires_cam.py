"""HiRes-CAM: a layer's activations times their gradients, position by position.

Example:
    maps = hires_cam(network, images, targets, layer="mixed10")
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def hires_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute the first-order contribution of each layer position to the score, signed.

    Unlike Grad-CAM, the method does not average the gradients. A map therefore shows
    which positions the layers above use. The sum over all positions of all layers is
    the share of the score that `completeness` measures. pytorch-grad-cam 1.5.7 sets
    negative values to 0 and scales the map to [0, 1].

    Source: Draelos and Carin 2020, arXiv 2011.08891, equation 5.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: see `cam.class_activation_map`, which explains `layer` and `align`.

    Example:
      >>> maps = hires_cam(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """

    def weigh(activations, gradients):
        return (gradients * activations).sum(-1)

    return cam.class_activation_map(
        weigh, network, images, targets, layer, align=align, relu=False
    )
