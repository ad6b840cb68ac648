"""Means over noisy copies of images, in constant memory.

maps = mean_over_noise(noisy_maps, images, keys, samples=16, noise=0.15)
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.chunks import Tree, sum_over
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.models.dtypes import as_float

_METRIC = 2**32 - 1  # methods fold in the numbers of their samples, from 0


def as_threefry(key: Key[Array, ""]) -> Key[Array, ""]:
    """Return a key whose draws under `vmap` do not depend on the other keys.

    JAX draws for a whole batch of "rbg" keys from the first of them. Such a key becomes
    a "threefry2x32" key of all its words. Other keys stay as they are.

    Example:
      >>> str(jax.random.key_impl(as_threefry(jax.random.key(0, impl="rbg"))))
      'threefry2x32'
    """
    if jax.random.key_impl(key) not in ("rbg", "unsafe_rbg"):
        return key
    words = jax.random.key_data(key)
    # A key from a seed has two equal halves, which XOR would cancel.
    first = jax.random.wrap_key_data(words[:2], impl="threefry2x32")
    return functools.reduce(jax.random.fold_in, words[2:], first)


def image_keys(
    keys: Key[Array, "n"], images: Float[Array, "n h w 3"]
) -> Key[Array, "n"]:
    """Return the keys to draw with, one per image, see `as_threefry`.

    Raises:
      ValueError: there is another number of keys.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), len(images))
      >>> bool((image_keys(keys, images) == keys).all())
      True
    """
    is_typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    counts = keys.shape if is_typed else keys.shape[:-1]  # the last axis is of one key
    if counts != images.shape[:1]:
        raise ValueError(
            f"keys have the shape {keys.shape}; expected one random key per image, as "
            f"from jax.random.split(key, {len(images)})"
        )
    return jax.vmap(as_threefry)(keys)


def metric_keys(
    keys: Key[Array, "n"], images: Float[Array, "n h w 3"]
) -> Key[Array, "n"]:
    """Return the keys of a metric, whose draws are independent of those of methods.

    A map that was computed with the same keys is thus not measured with its own noise.

    Raises:
      ValueError: there is another number of keys.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), len(images))
      >>> bool((metric_keys(keys, images) == keys).any())
      False
    """
    fold = jax.vmap(jax.random.fold_in, (0, None))
    return fold(image_keys(keys, images), _METRIC)


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
    keys = image_keys(keys, images)
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
