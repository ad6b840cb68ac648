"""Randomisation: whether maps depend on the parameters of the network.

for variables in randomised(variables, [["head"], ["backbone/mixed10"]], key):
    correlation = rank_correlation(maps, maps_of(variables))  # lower is better
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from seeflower_jax import hints


def randomised(
    variables: Mapping[str, Any], layers: Sequence[Sequence[str]], key: PRNGKeyArray
) -> Iterator[dict[str, Any]]:
    """Yield variables with the parameters of more and more layers shuffled, top first.

    If the maps of a method stay the same under this cascading randomisation, the method
    does not explain the network.

    Source: the randomisation check, Adebayo et al. 2018, arXiv 1810.03292, section 3.

    Args:
      variables: {'params': {...}, ...}; they are not changed.
      layers: groups of layer names in `params`, the top group first. Examples of names
        are 'head' and 'backbone/mixed10_branch1x1'. Each yield shuffles one more group.
      key: random key.

    Raises:
      ValueError: a layer has no parameters.

    Example:
      >>> groups = [["head"], ["backbone/block5_conv3"]]
      >>> len(list(randomised(variables, groups, jax.random.key(0))))
      2
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
    names = ["/".join(str(entry.key) for entry in path) for path, _ in leaves]
    values = [value for _, value in leaves]
    # A parameter belongs to the layers "backbone", "backbone/block1_conv1", ...
    owners = [
        list(itertools.accumulate(name.split("/"), "{}/{}".format)) for name in names
    ]
    _check_layers(itertools.chain(*layers), set(itertools.chain(*owners)))
    for number, group in enumerate(layers):
        for i, of_parameter in enumerate(owners):
            if not set(group).isdisjoint(of_parameter):
                leaf_key = jax.random.fold_in(jax.random.fold_in(key, number), i)
                flat = jax.random.permutation(leaf_key, jnp.ravel(values[i]))
                values[i] = flat.reshape(values[i].shape)
        params = jax.tree_util.tree_unflatten(structure, values)
        yield {**variables, "params": params}


def _check_layers(layers: Iterable[str], known: Set[str]) -> None:
    """Check that every layer is known to have parameters."""
    for layer in layers:
        if layer not in known:
            raise ValueError(
                f"layer {layer!r} has no parameters{hints.did_you_mean(layer, known)}"
            )


def rank_correlation(
    first: Float[Array, "n h w"], second: Float[Array, "n h w"]
) -> Float[Array, "n"]:
    """Compute Spearman's rank correlation of two maps of each image.

    Pixels of equal value have the mean of their ranks. If position decided their rank,
    maps that are zero at many pixels, such as class activation maps, would correlate.

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
