"""Guided Grad-CAM: guided saliency, weighted by Grad-CAM.

Example:
    maps = guided_grad_cam(network, images, targets, layer="mixed10")
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution.methods.grad_cam import grad_cam
from seeflower_jax.attribution.methods.saliency import guided_saliency
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def guided_grad_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute the product of guided saliency and Grad-CAM.

    The authors' code and captum return the signed product for each colour. This map is
    its largest magnitude over the colours. By default, captum resizes Grad-CAM by
    nearest neighbours.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, section 3.2.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: see `cam.class_activation_map`, which explains `layer` and `align`.

    Example:
      >>> maps = guided_grad_cam(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """
    cam_maps = grad_cam(network, images, targets, layer=layer, align=align)
    return guided_saliency(network, images, targets) * cam_maps
