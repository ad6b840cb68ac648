"""Attention weights of vision transformers, and maps from them.

Example:
    weights = attention_heads(endpoints, ["block_0/attention", "block_1/attention"])
    maps = token_maps(relevance, images, prefix=1)
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.layers import unknown_layer
from seeflower_jax.attribution.tokens import Grid, grid_shape
from seeflower_jax.models.dtypes import as_float


def token_maps(
    relevance: Float[Array, "n t"],
    images: Float[Array, "n h w 3"],
    prefix: int,
    grid: Grid = None,
) -> Float[Array, "n h w"]:
    """Return the relevance of patches as maps of the size of the images.

    Raises:
      ValueError: the patches do not fill a grid.

    Example:
      >>> token_maps(jnp.ones((3, 17)), images, prefix=1).shape == images.shape[:3]
      True
    """
    patches = relevance.shape[1] - prefix
    shape = grid_shape(patches, images, grid)
    if shape is None:
        aspect = f"of the images' aspect ratio {images.shape[1]}:{images.shape[2]}"
        raise ValueError(
            f"{patches} patches, all but the first {prefix} tokens, do not fill a grid "
            f"{grid or aspect}; set prefix or grid=(rows, columns)"
        )
    return cam.upsample(relevance[:, prefix:].reshape(-1, *shape), images)


def attention_heads(
    endpoints: Mapping[str, Array], layers: Sequence[str]
) -> list[Float[Array, "n heads t t"]]:
    """Return the attention weights of layers.

    Args:
      endpoints: the endpoints of a network, or gradients with respect to them.
      layers: names of attention weights [n, heads, t, t]. If the last two axes differ,
        the weights may be [n, t, t, heads], as `channels_first` of an adapter leaves
        them.

    Raises:
      ValueError: a layer is unknown or has no attention weights, or `layers` is empty.

    Example:
      >>> weights = {"a": jnp.ones((3, 2, 5, 5)), "b": jnp.ones((3, 5, 5, 2))}
      >>> [w.shape for w in attention_heads(weights, ["a", "b"])]
      [(3, 2, 5, 5), (3, 2, 5, 5)]
    """
    if not layers:
        raise ValueError("layers is empty; expected the names of attention weights")
    for layer in layers:
        if layer not in endpoints:
            raise unknown_layer(layer, endpoints, {})
    return [_heads_first(name, as_float(endpoints[name])) for name in layers]


def _heads_first(layer: str, weights: Array) -> Float[Array, "n heads t t"]:
    if weights.ndim == 4 and weights.shape[2] == weights.shape[3]:
        return weights
    if weights.ndim == 4 and weights.shape[1] == weights.shape[2]:
        return jnp.moveaxis(weights, -1, 1)
    raise ValueError(
        f"layer {layer!r} has the shape {weights.shape}; expected attention weights "
        "[n, heads, t, t]; name the weights after the softmax"
    )


def head_row(
    relevance: Float[Array, "n t t"], prefix: int, class_token: bool
) -> Float[Array, "n t"]:
    """Return what the head of a network gets from each token.

    The head reads the class token, which is the first token. Without a class token, or
    if `prefix` is 0, the head averages the patches.

    Example:
      >>> relevance = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [6.0, 7.0, 8.0]]])
      >>> head_row(relevance, 1, True).tolist()
      [[1.0, 2.0, 3.0]]
      >>> head_row(relevance, 1, False).tolist()
      [[5.0, 6.0, 7.0]]
    """
    has_class_token = class_token and prefix > 0
    return relevance[:, 0] if has_class_token else relevance[:, prefix:].mean(1)
