"""Layer-CAM: a layer's activations, weighted by the positive gradient per position.

Example:
    maps = layer_cam(network, images, targets, layer="mixed7")
"""

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def layer_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score.

    The method also works at lower layers, which give finer maps. The source fuses maps
    of several layers by their maximum. This function adds them. pytorch-grad-cam 1.5.7
    scales the map to [0, 1].

    Source: Jiang et al. 2021, LayerCAM, IEEE TIP 30, equations 6 and 7.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: see `cam.class_activation_map`, which explains `layer` and `align`.

    Example:
      >>> maps = layer_cam(network, images, labels, layer="block4_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """

    def weigh(activations, gradients):
        return (jax.nn.relu(gradients) * activations).sum(-1)

    return cam.class_activation_map(weigh, network, images, targets, layer, align=align)
