"""Vision transformers: tokens as maps.

    network = tokens_to_grid(attr.from_keras(transformer))
    maps = attr.grad_cam(network, images, layer="block_11/norm1")

The tokens of an image are [t, c]: class and register tokens, followed by the patches of
the image row by row.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution.adapters.network import layer_shapes
from seeflower_jax.attribution.layers import Cut
from seeflower_jax.attribution.types import (
    Endpoints,
    NetworkFunction,
    Taps,
    as_pytree,
    endpoint_shapes,
)

# Rows and columns of patches; None for the aspect ratio of the images.
Grid = tuple[int, int] | None


def grid_shape(patches: int, images: Array, grid: Grid = None) -> Grid:
    """Return the rows and columns of a number of patches, None if they do not fit.

    Example:
      >>> grid_shape(24, jnp.zeros((1, 64, 96, 3)))
      (4, 6)
      >>> grid_shape(25, jnp.zeros((1, 64, 96, 3))) is None
      True
    """
    height, width = images.shape[1:3]
    rows = math.isqrt(max(patches, 0) * height // width)
    rows, columns = grid or (rows, rows * width // height)
    fits = rows * columns == patches > 0
    return (rows, columns) if fits else None


def tokens_to_grid(
    network: NetworkFunction,
    *,
    prefix: int = 1,
    grid: Grid = None,
    class_token: bool = True,
) -> "TokenGrid":
    """Return the network with its tokens as maps, for class activation maps.

    Every endpoint [n, prefix + h * w, c] becomes [n, h, w, c]. Other endpoints stay as
    they are. After the last attention layer, the logits depend on the class token only.
    Choose a layer below it, such as the first normalisation of the last block.

    Args:
      network: a network function.
      prefix: number of class and register tokens, which come before the patches. The
        maps leave them out.
      grid: (rows, columns) of the patches. The default has the aspect ratio of the
        images.
      class_token: whether the first token is a class token, which the head reads. If
        the head averages the patches, pass False; `layer="head"` is then allowed.

    Example:
      >>> def transformer(images, taps=None):
      ...     tokens = jnp.zeros((len(images), 1 + 4 * 4, 8))
      ...     return tokens[:, 0], {"block": tokens}
      >>> tokens_to_grid(transformer)(images)[1]["block"].shape
      (3, 4, 4, 8)
    """
    return TokenGrid(as_pytree(network), prefix, grid, class_token)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["network"],
    meta_fields=["prefix", "grid", "class_token"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class TokenGrid:
    """A network function with tokens as maps, see `tokens_to_grid`."""

    network: Any
    prefix: int
    grid: Grid
    class_token: bool

    def __call__(
        self, images: Float[Array, "n h w 3"], taps: Taps | None = None
    ) -> tuple[Float[Array, "n c"], Endpoints]:
        """Return the logits and the endpoints, see `types.NetworkFunction`."""
        if taps:
            shapes = endpoint_shapes(self.network, images)
            taps = {
                name: self._tap_of_tokens(tap)
                if name in shapes and len(shapes[name].shape) == 3
                else tap
                for name, tap in taps.items()
            }
        logits, endpoints = self.network(images, taps)
        return logits, jax.tree.map(lambda x: self._to_grid(x, images), endpoints)

    @property
    def has_class_token(self) -> bool:
        """Return whether the head reads a class token, which has no place."""
        return self.class_token and self.prefix > 0

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the endpoints, as the adapted network does.

        Raises:
          ValueError: the shape of images is not known.
        """
        if not hasattr(self.network, "example"):
            raise ValueError(
                "the layers depend on the size of images, which a plain function does "
                "not know; use jax.eval_shape(network, images)[1]"
            )
        return layer_shapes(self, self.network.example())

    @property
    def hidden_layers(self) -> dict[str, str]:
        """Return the layers inside primitives, see `AdaptedNetwork.hidden_layers`."""
        return getattr(self.network, "hidden_layers", {})

    def _tap_of_tokens(self, tap: Array | Cut) -> Array | Cut:
        """Return a tap as tokens, whether it is [n, h, w, c] or has tokens already."""
        if tap.ndim != 4:
            return tap
        if isinstance(tap, Cut):
            return Cut(self._to_tokens(tap.array), tap.replaces, self.prefix)
        return self._to_tokens(tap)

    def _to_tokens(self, array: Array) -> Array:
        """Return an array [n, h, w, c] as tokens, with zeros for the prefix."""
        n, rows, columns, channels = array.shape
        tokens = array.reshape(n, rows * columns, channels)
        return jnp.pad(tokens, ((0, 0), (self.prefix, 0), (0, 0)))

    def _to_grid(self, value: Array, images: Array) -> Array:
        """Return tokens [n, t, c] as [n, h, w, c], and other values as they are."""
        if value.ndim != 3:
            return value
        n, tokens, channels = value.shape
        shape = grid_shape(tokens - self.prefix, images, self.grid)
        if shape is None:
            return value
        return value[:, self.prefix :].reshape(n, *shape, channels)
