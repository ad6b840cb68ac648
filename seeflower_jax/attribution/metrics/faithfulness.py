"""Faithfulness: the probability of a class while pixels are deleted or inserted.

    curve = deletion(network, images, maps, labels, steps=20)     # [steps + 1, N]
    area = area_under(curve)                                      # lower is better

Every function is pure and batched. The steps of a curve run one after another.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seeflower_jax.attribution import targets as targets_lib
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.types import NetworkFunction
from seeflower_jax.models.dtypes import as_float


def ranks(maps: Float[Array, "n h w"]) -> Float[Array, "n h w"]:
    """Return the share of pixels with a larger value, in [0, 1).

    Pixels of equal value are ranked by position.

    Example:
      >>> ranks(jnp.array([[[3.0, 1.0], [2.0, 4.0]]])).tolist()
      [[[0.25, 0.75], [0.5, 0.0]]]
    """
    flat = as_float(maps).reshape(len(maps), -1)
    order = jnp.argsort(-flat, axis=-1, stable=True)
    positions = jnp.argsort(order, axis=-1)
    return (positions / flat.shape[-1]).reshape(maps.shape)


def area_under(curve: Float[Array, "k n"]) -> Float[Array, "n"]:
    """Return the area under curves over [0, 1], by the trapezoidal rule.

    This area summarises a curve of deletion or insertion.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, and the authors' code (RISE,
    `evaluation.auc`), which weights the two ends by one half.

    Args:
      curve: values at equal distances, one column per image.

    Example:
      >>> area_under(jnp.array([[1.0], [0.0], [0.0]])).tolist()
      [0.25]
    """
    return jnp.trapezoid(curve, dx=1 / (len(curve) - 1), axis=0)


def _blur(images: Float[Array, "n h w c"], sigma: float) -> Float[Array, "n h w c"]:
    """Return images after a Gaussian blur that repeats the borders."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = jnp.array(weights / weights.sum(), jnp.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        padded = jnp.pad(images, pad, mode="edge")
        images = sum(
            weight * jax.lax.slice_in_dim(padded, i, i + images.shape[axis], axis=axis)
            for i, weight in enumerate(kernel)
        )
    return images


def probability_curve(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"] | None,
    rank_ranges: Float[Array, "k 2"],
    replace: Callable[[Array, Bool[Array, "n h w"]], Float[Array, "n h w 3"]],
) -> Float[Array, "k n"]:
    """Compute the probability of the labels after replacing ranges of pixels.

    Args:
      network, images, maps, labels: see `deletion`.
      rank_ranges: (lowest rank, highest rank) of the replaced pixels; the highest rank
        is exclusive.
      replace: (images, removed) -> images without the pixels of the mask `removed`.
    """
    rank = ranks(maps)
    labels = targets_lib.resolve(network, images, labels)
    score = targets_lib.probability(labels)

    def probability(rank_range):
        removed = (rank >= rank_range[0]) & (rank < rank_range[1])
        return score(network(replace(images, removed))[0])

    return jax.lax.map(probability, rank_ranges)


def deletion(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"] | None,
    steps: int = 20,
    baseline: float = 127.5,
) -> Float[Array, "steps+1 n"]:
    """Compute the probability of the labels while pixels are removed.

    The pixels with the largest values of the map are removed first.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, section 3.3.

    Args:
      network: see `seeflower_jax.attribution`.
      images: RGB in [0, 255].
      maps: maps of the images.
      labels: class indices, or None for the classes predicted for the whole images.
      steps: number of steps of the curve.
      baseline: value of removed pixels.

    Returns:
      The curve, from the whole image to no pixels. A lower `area_under` is better.

    Raises:
      ValueError: an option is out of its range.

    Example:
      >>> curve = deletion(network, images, maps, labels, steps=4)
      >>> curve.shape == (5, len(images))
      True
    """
    check_ranges(steps=steps, baseline=baseline)
    ends = jnp.linspace(0, 1, steps + 1)
    return probability_curve(
        network,
        as_float(images),
        maps,
        labels,
        jnp.stack([jnp.zeros_like(ends), ends], -1),
        lambda images, removed: jnp.where(removed[..., None], baseline, images),
    )


def insertion(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"] | None,
    steps: int = 20,
    sigma: float = 10.0,
) -> Float[Array, "steps+1 n"]:
    """Compute the probability of the labels while pixels are added to a blurred image.

    The pixels with the largest values of the map are added first. Starting from a
    blurred image avoids artificial edges.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, section 3.3.

    Args:
      network, images, maps, labels, steps: see `deletion`.
      sigma: standard deviation of the blur in pixels.

    Returns:
      The curve, from the blurred to the whole image. A higher `area_under` is better.

    Raises:
      ValueError: an option is out of its range.
    """
    check_ranges(steps=steps, sigma=sigma)
    images = as_float(images)
    blurred = _blur(images, sigma)
    starts = jnp.linspace(0, 1, steps + 1)
    return probability_curve(
        network,
        images,
        maps,
        labels,
        jnp.stack([starts, jnp.full_like(starts, 2.0)], -1),
        lambda images, removed: jnp.where(removed[..., None], blurred, images),
    )
