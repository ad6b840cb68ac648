"""Means over noisy copies of images, in constant memory.

maps = mean_over_noise(noisy_maps, images, keys, samples=16, noise=0.15)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.chunks import Tree, sum_over
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.models.dtypes import as_float


def check_keys(keys: Key[Array, "n"], images: Float[Array, "n h w 3"]) -> None:
    """Check that there is one random key per image.

    Raises:
      ValueError: there is another number of keys.

    Example:
      >>> check_keys(jax.random.split(jax.random.key(0), len(images)), images)
    """
    is_typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    counts = keys.shape if is_typed else keys.shape[:-1]  # the last axis is of one key
    if counts != images.shape[:1]:
        raise ValueError(
            f"keys have the shape {keys.shape}; expected one random key per image, as "
            f"from jax.random.split(key, {len(images)})"
        )


def mean_over_noise(
    function: Callable[[Float[Array, "n h w 3"]], Tree],
    images: Float[Array, "n h w 3"],
    keys: Key[Array, "n"],
    *,
    samples: int,
    noise: float,
    batch_size: int,
) -> Tree:
    """Return the mean of a function over copies of the images with Gaussian noise.

    Args:
      function: maps noisy images to a pytree of arrays.
      images, keys, samples, noise, batch_size: see `methods.smooth_grad`.

    Raises:
      ValueError: an option is out of its range, or there is not one key per image.

    Example:
      >>> brightness = mean_over_noise(
      ...     lambda x: x.mean((1, 2, 3)), images, keys, samples=4, noise=0.0,
      ...     batch_size=2)
      >>> bool(jnp.allclose(brightness, images.mean((1, 2, 3))))
      True
    """
    check_ranges(samples=samples, noise=noise, batch_size=batch_size)
    check_keys(keys, images)
    images = as_float(images)
    deviation = noise * jnp.ptp(images, axis=(1, 2, 3), keepdims=True)

    def draw_noise(key, sample):
        sample_key = jax.random.fold_in(key, sample)
        return jax.random.normal(sample_key, images.shape[1:], images.dtype)

    def of_sample(sample):
        unit_noise = jax.vmap(draw_noise, (0, None))(keys, sample)
        return function(images + deviation * unit_noise)

    total = sum_over(of_sample, jnp.arange(samples), batch_size)
    return jax.tree.map(lambda x: x / samples, total)
