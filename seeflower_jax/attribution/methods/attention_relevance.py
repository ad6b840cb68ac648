"""Attention relevance: attention weighted by its gradient, over all layers.

Example:
    layers = [name for name in network.layers if name.endswith("attention")]
    maps = attention_relevance(network, images, targets, layers=layers)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import attention
from seeflower_jax.attribution.targets import score
from seeflower_jax.attribution.tokens import Grid
from seeflower_jax.attribution.types import NetworkFunction, Targets, endpoint_shapes


def attention_relevance(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layers: Sequence[str],
    prefix: int = 1,
    grid: Grid = None,
    class_token: bool = True,
) -> Float[Array, "n h w"]:
    """Compute how much each patch raises the score through attention, over all layers.

    Attention weights count only where their gradient is positive. Unlike attention
    rollout, the map depends on the class.

    Differences: like this function, the authors' code for vision transformers does not
    normalise the relevance. The source normalises it for attention between modalities.
    The authors' code always reads the row of the class token, and scales maps to [0, 1]
    for display. captum 0.9 does not have this method.

    Source: Chefer et al. 2021, arXiv 2103.15679, equations 5 and 6, for self-attention.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
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
      ...     weights += (taps or {}).get("attention", 0)
      ...     return weights[:, 0, 0], {"attention": weights}
      >>> maps = attention_relevance(transformer, images, layers=["attention"])
      >>> maps.shape == images.shape[:3]
      True
    """
    shapes = endpoint_shapes(network, images)
    jax.eval_shape(lambda x: attention.attention_heads(x, layers), shapes)  # May raise.
    zero_taps = {name: jnp.zeros_like(shapes[name]) for name in layers}

    def total_score(taps):
        logits, endpoints = network(images, taps)
        return score(logits, targets).sum(), endpoints

    gradients, endpoints = jax.grad(total_score, has_aux=True)(zero_taps)
    weights, gradients = (
        attention.attention_heads(values, layers) for values in (endpoints, gradients)
    )
    relevance = jnp.eye(weights[0].shape[-1], dtype=weights[0].dtype)
    for weight, gradient in zip(weights, gradients, strict=True):
        added = jax.nn.relu(weight * gradient).mean(1)
        relevance += jnp.matmul(added, relevance, precision="highest")
    row = attention.head_row(relevance, prefix, class_token)
    return attention.token_maps(row, images, prefix, grid)
