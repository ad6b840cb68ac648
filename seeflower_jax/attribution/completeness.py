"""Completeness: how much of a score the layers of a class activation map explain.

    contributions(network, images, targets, layer="head")    # {"mixed7": [N], ...}
    completeness(network, images, targets, layer="head")     # [N]; 1 for a linear head

The contribution of a layer is the sum of its activations times their gradients. This is
also the sum of HiRes-CAM over the layer's cells, before the map is placed on the image.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, layers
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import (
    Layer,
    NetworkFunction,
    Targets,
    endpoint_shapes,
)


def contributions(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer = layers.HEAD,
) -> dict[str, Float[Array, "n"]]:
    """Return what each layer adds to the score, to first order.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head", see `layers.resolve`.

    Example:
      >>> contributions(network, images, labels, layer="block5_conv3").keys()
      dict_keys(['block5_conv3'])
    """
    names = layers.resolve(network, images, layer)
    values = layers.gradients(network, images, targets, names)
    return {
        name: (activations * gradients).sum((1, 2, 3))
        for name, (activations, gradients) in values.items()
    }


def completeness(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer = layers.HEAD,
) -> Float[Array, "n"]:
    """Return the share of the score that the contributions of the layers add up to.

    It is the share of the difference between the score and the score with activations
    of zero at the layers. If the score is linear in the activations plus a bias, the
    share is 1. A share far from 1 means that gradients alone do not show how much
    evidence a layer has. For example, the pooling `root_average` normalises the length
    of features, so contributions cancel in part.

    Args:
      network, images, targets, layer: see `contributions`.

    Returns:
      The share for each image; 0 if the activations do not change the score.

    Example:
      >>> share = completeness(network, images, labels)
      >>> bool((abs(share - 1) < 1e-3).all())    # a linear head on mean activations
      True
    """
    targets = resolve(network, images, targets)
    names = layers.resolve(network, images, layer)
    endpoints = endpoint_shapes(network, images)
    nothing: dict[str, Any] = {
        name: layers.Cut(jnp.zeros_like(x), replaces=True)
        for name, x in endpoints.items()
        if name in names
    }
    logits, bare_logits = network(images)[0], network(images, nothing)[0]
    whole = score(logits, targets) - score(bare_logits, targets)
    parts = contributions(network, images, targets, layer=names)
    return cam.divide(jnp.stack([*parts.values()]).sum(0), whole)
