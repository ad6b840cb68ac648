"""Sensitivity: how much a map changes under small changes of the image.

def explain(images):
    return grad_cam(network, images, labels, layer="mixed10")

keys = jax.random.split(jax.random.key(0), len(images))
changes = max_sensitivity(explain, images, keys)     # [N], lower is better
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.chunks import map_over
from seeflower_jax.attribution.noise import metric_keys
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.models.dtypes import as_float

Maps = TypeVar("Maps")  # arrays with one number per image in the result


def max_sensitivity(
    explain: Callable[[Float[Array, "n h w 3"]], Maps],
    images: Float[Array, "n h w 3"],
    keys: Key[Array, "n"],
    *,
    radius: float = 5.1,
    samples: int = 10,
    batch_size: int = 1,
) -> Maps:
    """Compute the largest relative change of maps under noise of a small radius.

    The noise is uniform in [-radius, radius] for each value of a pixel. The change is
    the Euclidean norm of the difference of maps, divided by the norm of the map.
    Perturbed images may leave [0, 255] by the radius.

    Source: Yeh et al. 2019, arXiv 1901.09392, definition 3.1. For the same noise, the
    value equals `captum.metrics.sensitivity_max`. captum's radius of 0.02, for images
    in [0, 1], is 5.1 here.

    Args:
      explain: function from images to maps, [n, ...], or to a tree of the maps of
        several methods. It should explain fixed classes. If it explains the predicted
        class, a change of the prediction changes the explained class.
      images: RGB in [0, 255].
      keys: one random key per image, so that the value does not depend on the batch.
      radius: largest change of a pixel value.
      samples: number of perturbations of each image.
      batch_size: number of perturbations of each image at once. Memory grows with this
        number, not with `samples`.

    Returns:
      Values of 0 or more, [n], in the tree of `explain`. For a map of zeros, the value
      is the norm of the change.

    Raises:
      ValueError: an option is out of its range, or there is not one key per image.

    Example:
      >>> changes = max_sensitivity(lambda images: images, images, keys, samples=2)
      >>> bool((changes > 0).all())
      True
    """
    check_ranges(samples=samples, radius=radius, batch_size=batch_size)
    keys = metric_keys(keys, images)
    images = as_float(images)
    maps = jax.tree.map(as_float, explain(images))
    sizes = jax.tree.map(_norm, maps)

    def change(sample):
        sample_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
        changed = explain(images + _noise(sample_keys, images, radius))
        return jax.tree.map(lambda a, b: _norm(as_float(a) - b), changed, maps)

    changes = map_over(change, jnp.arange(samples), batch_size)
    return jax.tree.map(
        lambda change, size: change.max(0) / jnp.where(size > 0, size, 1),
        changes,
        sizes,
    )


def _norm(maps: Float[Array, "n ..."]) -> Float[Array, "n"]:
    """Return the Euclidean norm of each map, whose squares could over- or underflow."""
    flat = maps.reshape(len(maps), -1)
    largest = jnp.abs(flat).max(-1)
    scale = jnp.where(largest > 0, largest, 1)
    return scale * jnp.linalg.norm(flat / scale[:, None], axis=-1)


def _noise(
    keys: Key[Array, "n"], images: Float[Array, "n h w 3"], radius: float
) -> Float[Array, "n h w 3"]:
    def draw(key: Key[Array, ""]) -> Float[Array, "h w 3"]:
        shape = images.shape[1:]
        return jax.random.uniform(key, shape, images.dtype, -radius, radius)

    return jax.vmap(draw)(keys)
