"""Building blocks of class activation maps: layer gradients and upsampling.

Example:
    activations, gradients = layer_gradients(network, images, targets, "mixed10")
    maps = upsample(jax.nn.relu((activations * gradients).sum(-1)), images)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax import hints
from seeflower_jax.attribution.targets import score
from seeflower_jax.attribution.types import EndpointShapes, NetworkFunction, Targets


def spatial_layers(endpoints: EndpointShapes) -> list[str]:
    """Return the names of the endpoints with a spatial extent, in order.

    An endpoint has a spatial extent if it is [N, h, w, C] with more than one position.

    Args:
      endpoints: {name: array or shape}.
    """
    return [
        name
        for name, value in endpoints.items()
        if len(value.shape) == 4 and value.shape[1] * value.shape[2] > 1
    ]


def check_layer(endpoints: EndpointShapes, layer: str) -> None:
    """Check that a layer exists and has a spatial extent.

    Args:
      endpoints: {name: array or shape}.
      layer: name of an endpoint.

    Raises:
      ValueError: the layer is unknown or has no spatial extent. The message lists the
        layers with a spatial extent.
    """
    layers = spatial_layers(endpoints)
    if layer in layers:
        return
    hint = hints.did_you_mean(layer, layers)
    problem = "has no spatial extent" if layer in endpoints else "is unknown"
    raise ValueError(f"layer {layer!r} {problem}; layers are {layers}{hint}")


def layer_gradients(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    layer: str,
) -> tuple[Float[Array, "n lh lw k"], Float[Array, "n lh lw k"]]:
    """Return a layer's activations and the gradient of the score with respect to them.

    The function adds a tap of zeros to the layer and differentiates the score with
    respect to the tap. The backward pass therefore runs only through the layers above.

    Raises:
      ValueError: the layer is unknown or has no spatial extent.

    Example:
      >>> activations, gradients = layer_gradients(
      ...     network, images, labels, "block5_conv3")
      >>> activations.shape == gradients.shape
      True
    """
    shapes = jax.eval_shape(network, images)[1]
    check_layer(shapes, layer)
    zero_tap = jnp.zeros(shapes[layer].shape, shapes[layer].dtype)

    def total_score(tap):
        logits, endpoints = network(images, {layer: tap})
        return score(logits, targets).sum(), endpoints[layer]

    gradients, activations = jax.grad(total_score, has_aux=True)(zero_tap)
    return activations.astype(jnp.float32), gradients.astype(jnp.float32)


def upsample(
    maps: Float[Array, "n lh lw"], images: Float[Array, "n h w 3"]
) -> Float[Array, "n h w"]:
    """Resize maps bilinearly to the size of the images."""
    return jax.image.resize(maps, images.shape[:3], "bilinear")


def divide(
    numerator: Float[Array, "*shape"], denominator: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Divide two arrays, and return 0 wherever the denominator is 0.

    Example:
      >>> divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])).tolist()
      [0.5, 0.0]
    """
    safe = jnp.where(denominator == 0, 1, denominator)
    return jnp.where(denominator == 0, 0, numerator / safe)
