"""How far maps tell what the network uses.

    curve = deletion(network, images, maps, labels, steps=20)     # [steps + 1, N]
    score = curve.mean(0)                                         # lower is better

Every function is pure and batched; a curve's steps run one after the other.

Sources: deletion and insertion, Petsiuk et al. 2018, arXiv 1806.07421, section 3.3;
ROAD, Rong et al. 2022, arXiv 2202.00449, section 4; the randomisation check, Adebayo et
al. 2018, arXiv 1810.03292, section 3; sparseness, Chalasani et al. 2020, arXiv
1810.06583 (Gini index).
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution import targets as targets_lib


def ranks(maps: jax.Array) -> jax.Array:
    """The share of pixels with a larger value, [N, H, W] in [0, 1); ties by place."""
    flat = maps.reshape(len(maps), -1)
    order = jnp.argsort(-flat, axis=-1, stable=True)
    places = jnp.argsort(order, axis=-1)
    return (places / flat.shape[-1]).reshape(maps.shape)


def _blur(images: jax.Array, sigma: float) -> jax.Array:
    """Gaussian blur [N, H, W, C], borders repeated."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = jnp.array(kernel / kernel.sum(), jnp.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        padded = jnp.pad(images, pad, mode="edge")
        images = sum(
            weight * jax.lax.slice_in_dim(padded, i, i + images.shape[axis], axis=axis)
            for i, weight in enumerate(kernel)
        )
    return images


def _curve(network, images, maps, labels, shares, replace) -> jax.Array:
    """Probability of the labels after replacing pixels, [len(shares), N].

    `replace(images, gone)` gives the picture without the pixels of `gone`, bool
    [N, H, W]; `shares` are (lowest rank, highest rank) of those.
    """
    rank = ranks(maps)
    score = targets_lib.probability(labels)

    def probability(share):
        gone = (rank >= share[0]) & (rank < share[1])
        return score(network(replace(images, gone))[0])

    return jax.lax.map(probability, shares)


def deletion(
    network: Callable,
    images: jax.Array,
    maps: jax.Array,
    labels: jax.Array,
    steps: int = 20,
    baseline: float = 127.5,
) -> jax.Array:
    """Probability of the labels as pixels go, the most important first.

    Args:
      network: see the package.
      images: [N, H, W, 3] in [0, 255].
      maps: [N, H, W].
      labels: int [N].
      steps: the curve's.
      baseline: value of pixels that are gone.

    Returns:
      [steps + 1, N], from the whole picture to nothing. Its mean over the steps is the
      area under the curve; a low one is good.
    """
    ends = jnp.linspace(0, 1, steps + 1)
    shares = jnp.stack([jnp.zeros_like(ends), ends], -1)
    return _curve(
        network,
        images.astype(jnp.float32),
        maps,
        labels,
        shares,
        lambda images, gone: jnp.where(gone[..., None], baseline, images),
    )


def insertion(
    network: Callable,
    images: jax.Array,
    maps: jax.Array,
    labels: jax.Array,
    steps: int = 20,
    sigma: float = 10.0,
) -> jax.Array:
    """Probability of the labels as pixels come, the most important first.

    The start is the picture blurred by `sigma` pixels, so that no edges are made.

    Returns:
      [steps + 1, N], from the blurred to the whole picture; a high mean is good.
    """
    images = images.astype(jnp.float32)
    blurred = _blur(images, sigma)
    starts = jnp.linspace(0, 1, steps + 1)
    shares = jnp.stack([starts, jnp.full_like(starts, 2.0)], -1)
    return _curve(
        network,
        images,
        maps,
        labels,
        shares,
        lambda images, gone: jnp.where(gone[..., None], blurred, images),
    )


def _impute(images: jax.Array, gone: jax.Array, iterations: int = 60) -> jax.Array:
    """Fills pixels with the mean of their eight neighbours, direct ones weighted more.

    The linear system of ROAD (equation 4: weights 1/6 and 1/12) is solved by Jacobi
    iterations from the mean colour of the pixels that are left.
    """
    gone = gone[..., None]
    left = jnp.where(gone, 0, images).sum((1, 2), keepdims=True)
    count = jnp.maximum((~gone).sum((1, 2), keepdims=True), 1)
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
        return jnp.where(gone, mean, images), None

    filled = jnp.where(gone, left / count, images)
    return jax.lax.scan(smooth, filled, None, iterations)[0]


def road(
    network: Callable,
    images: jax.Array,
    maps: jax.Array,
    labels: jax.Array,
    shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8),
) -> tuple[jax.Array, jax.Array]:
    """Probability of the labels with pixels imputed from their neighbours.

    Returns:
      (MoRF, LeRF), [len(shares), N] each: with the most and with the least relevant
      share of the pixels removed and imputed. A good map has a low first and a high
      second; their difference is one number for both.
    """
    images = images.astype(jnp.float32)
    most = jnp.array([(0.0, share) for share in shares])
    least = jnp.array([(1 - share, 2.0) for share in shares])
    return tuple(
        _curve(network, images, maps, labels, part, _impute) for part in (most, least)
    )


def sparseness(maps: jax.Array) -> jax.Array:
    """Gini index of a map's magnitudes, [N]: 0 is even, near 1 is one pixel alone."""
    flat = jnp.sort(jnp.abs(maps).reshape(len(maps), -1), axis=-1)
    count = flat.shape[-1]
    weights = 2 * jnp.arange(1, count + 1) - count - 1
    total = flat.sum(-1)
    safe = jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, (weights * flat).sum(-1) / (count * safe), 0)


def rank_correlation(first: jax.Array, second: jax.Array) -> jax.Array:
    """Spearman's correlation of two maps of the same picture, [N]."""
    a, b = (ranks(maps).reshape(len(maps), -1) for maps in (first, second))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return (a * b).sum(-1) / jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def randomised(variables: dict, layers: list[list[str]], key) -> Iterator[dict]:
    """Variables with more and more layers' parameters shuffled, from the top down.

    A method whose maps stay as they are under this (cascading) randomisation does not
    explain the network.

    Args:
      variables: {'params': {...}, ...}; not changed.
      layers: groups of names in `params` ('head', 'backbone/mixed10_branch1x1'), the
        top first; each yield shuffles one group more.
      key: random key.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
    names = ["/".join(str(entry.key) for entry in path) for path, _ in leaves]
    values = [value for _, value in leaves]
    for number, group in enumerate(layers):
        for i, name in enumerate(names):
            if any(name == layer or name.startswith(f"{layer}/") for layer in group):
                own = jax.random.fold_in(jax.random.fold_in(key, number), i)
                flat = jax.random.permutation(own, jnp.ravel(values[i]))
                values[i] = flat.reshape(values[i].shape)
        yield variables | {"params": jax.tree_util.tree_unflatten(structure, values)}
