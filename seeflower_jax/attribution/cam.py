"""Building blocks of class activation maps: weigh, add, place on the image.

Example:
    def weigh(activations, gradients):       # at one layer: [n, h, w, k] each
        return (gradients.mean((1, 2), keepdims=True) * activations).sum(-1)

    maps = class_activation_map(weigh, network, images, targets, ["mixed7", "mixed10"])
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seeflower_jax.attribution import layers
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.receptive_field import (
    RECEPTIVE_FIELD,
    Centres,
    layer_centres,
    tile_centres,
)
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets

# (activations, gradients) of a layer -> the map of the layer.
Weigh = Callable[
    [Float[Array, "n h w k"], Float[Array, "n h w k"]], Float[Array, "n h w"]
]


def class_activation_map(
    weigh: Weigh,
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    layer: Layer,
    *,
    align: str = RECEPTIVE_FIELD,
    relu: bool = True,
    per_cell: bool = True,
) -> Float[Array, "n h w"]:
    """Compute a map at each layer, place the maps on the images, and add them.

    With several layers, the gradient at a layer leaves out the paths through the other
    layers, see `layers.gradients`. So no evidence counts twice. `completeness` computes
    the share of the score that the layers explain.

    Args:
      weigh: computes the map of one layer from its activations and gradients.
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head" for all layers that the head
        reads. See `layers.resolve`. If `layer` is a static argument of `jit`, pass
        several names as a tuple.
      align, relu, per_cell: see `place_maps`. `per_cell` describes the maps that
        `weigh` returns.

    Raises:
      ValueError: a layer is unknown or has no spatial extent, the score does not depend
        on it directly, or `align` is unknown.

    Example:
      >>> def weigh(activations, gradients):
      ...     return (activations * gradients).sum(-1)
      >>> names = ["block5_pool"]
      >>> maps = class_activation_map(weigh, network, images, labels, names)
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(align=align)
    names = layers.resolve(network, images, layer)
    values = layers.gradients(network, images, targets, names)
    parts = {name: weigh(*of_layer) for name, of_layer in values.items()}
    return place_maps(parts, network, images, align=align, relu=relu, per_cell=per_cell)


def place_maps(
    parts: Mapping[str, Float[Array, "n lh lw"]],
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    *,
    align: str = RECEPTIVE_FIELD,
    relu: bool = True,
    per_cell: bool = True,
) -> Float[Array, "n h w"]:
    """Place the maps of layers on the images, and add them.

    A fine layer spreads its share of the score over more cells than a coarse layer, but
    each of its cells covers a smaller part of the image. Its map is therefore
    multiplied by its number of cells, divided by the number of cells of the coarsest
    layer. With one layer, or with layers of one resolution, maps keep their units.

    Args:
      parts: {layer: maps at the resolution of the layer}.
      network, images: see `seeflower_jax.attribution`.
      align: "receptive_field" places each cell at the centre of its receptive field.
        "stretch" stretches the maps over the image, as other libraries do. See
        `receptive_field.cell_centres`.
      relu: whether negative values become 0. If all layers have their cells at the same
        places, this happens before the map is resized, as in the sources. If not, it
        happens after the maps are added.
      per_cell: True if a map holds what each cell adds to the score, False if it holds
        an amount per area. Only with True are maps multiplied by the number of cells.

    Raises:
      ValueError: `align` is unknown, or see `receptive_field.layer_centres`.

    Example:
      >>> parts = {"block5_conv3": jnp.ones((len(images), 4, 4))}
      >>> place_maps(parts, network, images).shape == images.shape[:3]
      True
    """
    centres = layer_centres(network, images, parts, align)
    cells = {name: math.prod(part.shape[1:]) for name, part in parts.items()}
    maps: dict[tuple[Centres, Centres], Float[Array, "n h w"]] = {}
    for name, part in parts.items():
        part = part * (cells[name] / min(cells.values()) if per_cell else 1.0)
        place = centres[name]
        maps[place] = maps[place] + part if place in maps else part
    if len(maps) == 1:
        ((place, total),) = maps.items()
        return upsample(jax.nn.relu(total) if relu else total, images, place)
    placed = [upsample(part, images, place) for place, part in maps.items()]
    total = sum(placed[1:], placed[0])
    return jax.nn.relu(total) if relu else total


def upsample(
    maps: Float[Array, "n lh lw"],
    images: Float[Array, "n h w 3"],
    centres: tuple[Centres, Centres] | None = None,
) -> Float[Array, "n h w"]:
    """Interpolate maps linearly between the centres of their cells.

    Beyond the outermost centres, maps keep the values of the outermost cells.

    Args:
      maps: the maps, of any resolution.
      images: the maps get their size.
      centres: centres of the rows and of the columns, in pixels. By default, the cells
        are equal tiles that fill the image.

    Example:
      >>> maps = jnp.array([[[0.0, 4.0]]])
      >>> upsample(maps, jnp.zeros((1, 1, 4, 3)))[0, 0].tolist()
      [0.0, 1.0, 3.0, 4.0]
      >>> upsample(maps, jnp.zeros((1, 1, 4, 3)), ((0,), (1, 3)))[0, 0].tolist()
      [0.0, 0.0, 2.0, 4.0]
    """
    if centres is None:
        rows, columns = maps.shape[1:]
        centres = (
            tile_centres(rows, images.shape[1]),
            tile_centres(columns, images.shape[2]),
        )
    by_row, by_column = (
        interpolation(size, along)
        for size, along in zip(images.shape[1:3], centres, strict=True)
    )
    return jnp.einsum("nhw,ih,jw->nij", maps, by_row, by_column, precision="highest")


def interpolation(size: int, centres: Centres) -> Float[np.ndarray, "size cells"]:
    """Return the weight of each cell at each pixel along an axis of the image.

    Args:
      size: number of pixels.
      centres: centres of the cells, in pixels, in any order.

    Example:
      >>> interpolation(4, (1.0, 2.0)).tolist()
      [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    pixels, order = np.arange(size), np.argsort(centres)
    ascending = np.sort(centres)
    columns = [np.interp(pixels, ascending, one[order]) for one in np.eye(len(centres))]
    return np.stack(columns, -1).astype(np.float32)


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
