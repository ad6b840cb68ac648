"""Attention rollout: the attention of all layers of a transformer, multiplied.

Example:
    layers = [name for name in network.layers if name.endswith("attention")]
    maps = attention_rollout(network, images, layers=layers)
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import attention
from seeflower_jax.attribution.tokens import Grid
from seeflower_jax.attribution.types import NetworkFunction, Targets


def attention_rollout(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layers: Sequence[str],
    prefix: int = 1,
    grid: Grid = None,
    class_token: bool = True,
) -> Float[Array, "n h w"]:
    """Compute how much attention the class token pays to each patch, over all layers.

    The residual connection of a layer counts as much as its attention. The map does not
    depend on the class. The authors' code normalises the rows of the sum, which has the
    same effect as the factors of 0.5.

    Source: Abnar and Zuidema 2020, arXiv 2005.00928, equation 1 with the matrices
    A = 0.5 W + 0.5 I of section 3. W is the mean over the heads.

    Args:
      network, images: see `seeflower_jax.attribution`.
      targets: not used; present because all methods take it.
      layers: names of the attention weights [n, heads, t, t] of all layers, in the
        order of the computation.
      prefix: number of class and register tokens, which come before the patches. 0
        means that there is no class token.
      grid: (rows, columns) of the patches. The default has the aspect ratio of the
        images.
      class_token: whether the first token is a class token, which the head reads. If
        the head averages the patches, pass False; the maps are then means over all
        patches.

    Raises:
      ValueError: a layer is unknown or has no attention weights, or the patches do not
        fill the grid.

    Example:
      >>> def transformer(images, taps=None):
      ...     weights = jnp.full((len(images), 2, 17, 17), 1 / 17)
      ...     return weights[:, 0, 0], {"attention": weights}
      >>> maps = attention_rollout(transformer, images, layers=["attention"])
      >>> maps.shape == images.shape[:3]
      True
    """
    del targets
    weights = attention.attention_heads(network(images)[1], layers)
    mixed = [(w.mean(1) + jnp.eye(w.shape[-1], dtype=w.dtype)) / 2 for w in weights]
    product = functools.partial(jnp.matmul, precision="highest")
    rollout = functools.reduce(lambda below, layer: product(layer, below), mixed)
    row = attention.head_row(rollout, prefix, class_token)
    return attention.token_maps(row, images, prefix, grid)
