"""Grad-CAM: the sum of a layer's channels, weighted by their mean gradients.

Example:
    maps = grad_cam(network, images, targets, layer="mixed10")
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def grad_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    relu: bool = True,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score.

    The authors' code sums the gradients, which multiplies a map by its number of cells.
    captum applies no ReLU by default. pytorch-grad-cam 1.5.7 scales each map to [0, 1]
    and averages the maps of several layers. `align="stretch"` places the cells as both
    libraries do.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2. The
    See-Flower paper describes the method in section 3.3.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      relu: whether negative values, which are evidence against the target, become 0 as
        in equation 2.
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: see `cam.class_activation_map`, which explains `layer` and `align`.

    Example:
      >>> maps = grad_cam(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """

    def weigh(activations, gradients):
        return (gradients.mean((1, 2), keepdims=True) * activations).sum(-1)

    return cam.class_activation_map(
        weigh, network, images, targets, layer, align=align, relu=relu
    )
