"""Eigen-CAM: a layer's activations along their first principal component.

    maps = eigen_cam(network, images, layer="mixed10")

Source: Muhammad and Yeasin 2020, arXiv 2008.00299, equations 3 and 4. It knows no
class: the map is of what dominates the layer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import Targets


def eigen_cam(
    network: Callable, images: jax.Array, targets: Targets = None, *, layer: str
) -> jax.Array:
    """Projection of each place on the first right singular vector, [N, H, W].

    The vector's sign is arbitrary; it is chosen such that the map's sum is positive.

    Raises:
      ValueError: for a layer that is unknown or has no spatial extent.
    """
    del targets
    endpoints = network(images)[1]
    cam.check_layer(endpoints, layer)
    n, h, w, channels = endpoints[layer].shape
    places = endpoints[layer].astype(jnp.float32).reshape(n, h * w, channels)
    # The projection is a left singular vector times its singular value: the largest
    # eigenvector of a small matrix, places by places.
    values, vectors = jnp.linalg.eigh(places @ places.transpose(0, 2, 1))
    first = vectors[..., -1] * jnp.sqrt(jax.nn.relu(values[..., -1:]))
    first = jnp.where(first.sum(-1, keepdims=True) < 0, -first, first)
    return cam.upsample(first.reshape(n, h, w), images)
