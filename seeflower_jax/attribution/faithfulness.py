"""Faithfulness: metrics of how well a map shows what the network uses.

    curve = deletion(network, images, maps, labels, steps=20)     # [steps + 1, N]
    area = area_under(curve)                                      # lower is better

- `deletion`, `insertion` and `road` change pixels in the order of a map. They follow
  the probability of the label.
- `area_under` computes the area under a deletion or insertion curve.
- `randomised` and `rank_correlation` check whether maps depend on the parameters.
- `sparseness` measures how concentrated a map is.

Every function is pure and batched. The steps of a curve run one after the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from seeflower_jax.attribution import targets as targets_lib
from seeflower_jax.attribution.types import NetworkFunction


def ranks(maps: Float[Array, "n h w"]) -> Float[Array, "n h w"]:
    """Return the share of pixels with a larger value, in [0, 1).

    Pixels of equal value are ranked by position.

    Example:
      >>> ranks(jnp.array([[[3.0, 1.0], [2.0, 4.0]]])).tolist()
      [[[0.25, 0.75], [0.5, 0.0]]]
    """
    flat = maps.reshape(len(maps), -1)
    order = jnp.argsort(-flat, axis=-1, stable=True)
    positions = jnp.argsort(order, axis=-1)
    return (positions / flat.shape[-1]).reshape(maps.shape)


def average_ranks(maps: Float[Array, "n h w"]) -> Float[Array, "n h w"]:
    """Return the rank of each pixel from the smallest value, from 0.

    Pixels of equal value have the mean of their ranks, as in SciPy's `rankdata`.

    Example:
      >>> average_ranks(jnp.array([[[3.0, 1.0], [1.0, 4.0]]])).tolist()
      [[[2.0, 0.5], [0.5, 3.0]]]
    """

    def rank(flat):
        in_order = jnp.sort(flat)
        smaller = jnp.searchsorted(in_order, flat, side="left")
        not_larger = jnp.searchsorted(in_order, flat, side="right")
        return (smaller + not_larger - 1) / 2

    return jax.vmap(rank)(maps.reshape(len(maps), -1)).reshape(maps.shape)


def area_under(curve: Float[Array, "k n"]) -> Float[Array, "n"]:
    """Return the area under curves over [0, 1], by the trapezoidal rule.

    Deletion and insertion are compared by this area.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, and the authors' code (RISE,
    `evaluation.auc`), which weights the two ends by one half.

    Args:
      curve: values at equal distances, one image a column.

    Example:
      >>> area_under(jnp.array([[1.0], [0.0], [0.0]])).tolist()
      [0.25]
    """
    return jnp.trapezoid(curve, dx=1 / (len(curve) - 1), axis=0)


def _blur(images: Float[Array, "n h w c"], sigma: float) -> Float[Array, "n h w c"]:
    """Return images under a Gaussian blur that repeats the borders."""
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


def _curve(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"],
    rank_ranges: Float[Array, "k 2"],
    replace: Callable[[Array, Bool[Array, "n h w"]], Float[Array, "n h w 3"]],
) -> Float[Array, "k n"]:
    """Compute the probability of the labels after replacing ranges of pixels.

    Args:
      network, images, maps, labels: as of `deletion`.
      rank_ranges: (lowest rank, highest rank) of the replaced pixels; the highest rank
        is exclusive.
      replace: (images, removed) -> images without the pixels of the mask `removed`.
    """
    rank = ranks(maps)
    score = targets_lib.probability(labels)

    def probability(rank_range):
        removed = (rank >= rank_range[0]) & (rank < rank_range[1])
        return score(network(replace(images, removed))[0])

    return jax.lax.map(probability, rank_ranges)


def deletion(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"],
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
      labels: class indices.
      steps: number of steps of the curve.
      baseline: value of removed pixels.

    Returns:
      The curve, from the whole image to no pixels. A lower `area_under` it is better.

    Example:
      >>> curve = deletion(network, images, maps, labels, steps=4)
      >>> curve.shape == (5, len(images))
      True
    """
    ends = jnp.linspace(0, 1, steps + 1)
    return _curve(
        network,
        images.astype(jnp.float32),
        maps,
        labels,
        jnp.stack([jnp.zeros_like(ends), ends], -1),
        lambda images, removed: jnp.where(removed[..., None], baseline, images),
    )


def insertion(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"],
    steps: int = 20,
    sigma: float = 10.0,
) -> Float[Array, "steps+1 n"]:
    """Compute the probability of the labels while pixels are added to a blurred image.

    The pixels with the largest values of the map are added first. Starting from a
    blurred image avoids artificial edges.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, section 3.3.

    Args:
      network, images, maps, labels, steps: as of `deletion`.
      sigma: standard deviation of the blur in pixels.

    Returns:
      The curve, from the blurred to the whole image. A higher `area_under` it is
      better.
    """
    images = images.astype(jnp.float32)
    blurred = _blur(images, sigma)
    starts = jnp.linspace(0, 1, steps + 1)
    return _curve(
        network,
        images,
        maps,
        labels,
        jnp.stack([starts, jnp.full_like(starts, 2.0)], -1),
        lambda images, removed: jnp.where(removed[..., None], blurred, images),
    )


def _impute(
    images: Float[Array, "n h w c"],
    removed: Bool[Array, "n h w"],
    iterations: int = 60,
) -> Float[Array, "n h w c"]:
    """Replace pixels with the weighted mean of their eight neighbours.

    The weights are 1/6 for direct and 1/12 for diagonal neighbours (equation 4 of
    ROAD). Jacobi iterations solve the linear system. They start from the mean colour of
    the remaining pixels.
    """
    removed = removed[..., None]
    colour_sum = jnp.where(removed, 0, images).sum((1, 2), keepdims=True)
    count = jnp.maximum((~removed).sum((1, 2), keepdims=True), 1)
    weights = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12

    def smooth(images, _):
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        height, width = images.shape[1:3]
        mean = sum(
            weights[i, j] * padded[:, i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
            if weights[i, j]
        )
        return jnp.where(removed, mean, images), None

    imputed = jnp.where(removed, colour_sum / count, images)
    return jax.lax.scan(smooth, imputed, None, iterations)[0]


def road(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"],
    labels: Int[Array, "n"],
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
) -> tuple[Float[Array, "k n"], Float[Array, "k n"]]:
    """Compute the probability of the labels with pixels imputed from their neighbours.

    Source: ROAD, Rong et al. 2022, arXiv 2202.00449, section 4.

    Args:
      network, images, maps, labels: as of `deletion`.
      shares: the shares of pixels to remove and impute.

    Returns:
      (MoRF, LeRF): the probabilities without the most relevant pixels first, and
      without the least relevant pixels first. A good map has a low MoRF and a high
      LeRF. The difference LeRF - MoRF combines both in one number.
    """
    images = images.astype(jnp.float32)
    most_relevant = jnp.array([(0.0, share) for share in shares])
    least_relevant = jnp.array([(1 - share, 2.0) for share in shares])
    return (
        _curve(network, images, maps, labels, most_relevant, _impute),
        _curve(network, images, maps, labels, least_relevant, _impute),
    )


def sparseness(maps: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """Compute the Gini index of each map's magnitudes.

    Source: Chalasani et al. 2020, arXiv 1810.06583.

    Returns:
      Values in [0, 1): 0 for a constant map, near 1 for a map with a single pixel.

    Example:
      >>> sparseness(jnp.ones((1, 4, 4))).tolist()
      [0.0]
    """
    flat = jnp.sort(jnp.abs(maps).reshape(len(maps), -1), axis=-1)
    count = flat.shape[-1]
    weights = 2 * jnp.arange(1, count + 1) - count - 1
    total = flat.sum(-1)
    safe = jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, (weights * flat).sum(-1) / (count * safe), 0)


def rank_correlation(
    first: Float[Array, "n h w"], second: Float[Array, "n h w"]
) -> Float[Array, "n"]:
    """Compute Spearman's rank correlation of two maps of each image.

    Pixels of equal value have the mean of their ranks. A rank by position would let
    maps correlate that are zero at many pixels, as class activation maps are.

    Returns:
      Values in [-1, 1]. A constant map has no order, so it correlates at 0 with every
      map.

    Example:
      >>> bool((rank_correlation(maps, 2 * maps) > 0.99).all())
      True
    """
    a, b = (average_ranks(maps).reshape(len(maps), -1) for maps in (first, second))
    a, b = (2 * x / x.shape[-1] - 1 for x in (a, b))  # Squares of ranks are large.
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    norm = jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    is_constant = norm < 1e-6
    return jnp.where(is_constant, 0, (a * b).sum(-1) / jnp.where(is_constant, 1, norm))


def randomised(
    variables: Mapping[str, Any], layers: Sequence[Sequence[str]], key: PRNGKeyArray
) -> Iterator[dict[str, Any]]:
    """Yield variables with more and more layers' parameters shuffled, from the top.

    A method does not explain the network if its maps stay the same under this cascading
    randomisation.

    Source: the randomisation check, Adebayo et al. 2018, arXiv 1810.03292, section 3.

    Args:
      variables: {'params': {...}, ...}; not changed.
      layers: groups of layer names in `params`, the top group first. Examples of names
        are 'head' and 'backbone/mixed10_branch1x1'. Each yield shuffles one more group.
      key: random key.

    Example:
      >>> groups = [["head"], ["backbone/block5_conv3"]]
      >>> len(list(randomised(variables, groups, jax.random.key(0))))
      2
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
    names = ["/".join(str(entry.key) for entry in path) for path, _ in leaves]
    values = [value for _, value in leaves]
    for number, group in enumerate(layers):
        for i, name in enumerate(names):
            if any(name == layer or name.startswith(f"{layer}/") for layer in group):
                leaf_key = jax.random.fold_in(jax.random.fold_in(key, number), i)
                flat = jax.random.permutation(leaf_key, jnp.ravel(values[i]))
                values[i] = flat.reshape(values[i].shape)
        params = jax.tree_util.tree_unflatten(structure, values)
        yield {**variables, "params": params}
