"""What class activation maps share: activations, their gradients, size.

activations, gradients = layer_gradients(network, images, targets, "mixed10")
maps = upsample(jax.nn.relu((activations * gradients).sum(-1)), images)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seeflower_jax import hints
from seeflower_jax.attribution.targets import Targets, score


def spatial_layers(endpoints: dict) -> list[str]:
    """The endpoints {name: array or shape} that have a map, [N, h, w, C], in order."""
    return [
        name
        for name, value in endpoints.items()
        if len(value.shape) == 4 and value.shape[1] * value.shape[2] > 1
    ]


def check_layer(endpoints: dict, layer: str) -> None:
    """Refuses a layer that has no map.

    Args:
      endpoints: {name: array or shape}.

    Raises:
      ValueError: if there is no such layer or it has no spatial extent; lists those
        that have.
    """
    spatial = spatial_layers(endpoints)
    if layer in spatial:
        return
    hint = hints.did_you_mean(layer, spatial)
    problem = "has no spatial extent" if layer in endpoints else "is unknown"
    raise ValueError(f"layer {layer!r} {problem}; layers are {spatial}{hint}")


def layer_gradients(
    network: Callable, images: jax.Array, targets: Targets, layer: str
) -> tuple[jax.Array, jax.Array]:
    """A layer's activations and the gradient of the score there, both [N, h, w, C].

    A zero is added to the layer and the score differentiated with respect to it: the
    backward pass runs through the layers above alone.

    Raises:
      ValueError: as `check_layer`.
    """
    endpoints = jax.eval_shape(network, images)[1]
    check_layer(endpoints, layer)
    tap = jnp.zeros(endpoints[layer].shape, endpoints[layer].dtype)

    def total(tap):
        logits, endpoints = network(images, {layer: tap})
        return score(logits, targets).sum(), endpoints[layer]

    gradients, activations = jax.grad(total, has_aux=True)(tap)
    return activations.astype(jnp.float32), gradients.astype(jnp.float32)


def upsample(maps: jax.Array, images: jax.Array) -> jax.Array:
    """Maps [N, h, w] at the pictures' size [N, H, W], bilinearly."""
    return jax.image.resize(maps, images.shape[:3], "bilinear")


def divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, 0 where the denominator is 0."""
    safe = jnp.where(denominator == 0, 1, denominator)
    return jnp.where(denominator == 0, 0, numerator / safe)
