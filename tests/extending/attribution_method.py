"""A new attribution method: Grad-CAM+.

    python -m scripts.attribute --methods=grad_cam_plus ...

The weight of a channel is the mean of the positive part of its gradient.

Source: Lerma and Lucas 2022, arXiv 2205.10838, section 3.
"""

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, registry
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets


def grad_cam_plus(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where the activations of layers raise the score."""

    def weigh(activations, gradients):
        weights = jax.nn.relu(gradients).mean((1, 2), keepdims=True)
        return (weights * activations).sum(-1)

    return cam.class_activation_map(weigh, network, images, targets, layer, align=align)


registry.register("grad_cam_plus", registry.Method(grad_cam_plus, layered=True))
