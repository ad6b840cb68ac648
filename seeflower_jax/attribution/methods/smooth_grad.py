"""SmoothGrad: the mean of a method's maps over noisy copies of the image.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = smooth_grad(network, images, targets, keys)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.methods.saliency import saliency
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve
from seeflower_jax.attribution.types import MethodFunction, NetworkFunction, Targets


def smooth_grad(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    method: MethodFunction = saliency,
    samples: int = 16,
    noise: float = 0.15,
) -> Float[Array, "n h w"]:
    """Compute the mean map of a method over copies of the image with Gaussian noise.

    The copies run one after the other, so memory does not grow with their number.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 3.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      keys: one random key per image, so that a map does not depend on the batch.
      method: called as (network, images, targets) -> maps.
      samples: number of noisy copies.
      noise: standard deviation of the noise, as a share of the image's range of values.

    Raises:
      ValueError: an option is out of its range.

    Example:
      >>> maps = smooth_grad(network, images, labels, keys, samples=2)
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(samples=samples, noise=noise)
    targets = resolve(network, images, targets)
    images = images.astype(jnp.float32)
    deviation = noise * jnp.ptp(images, axis=(1, 2, 3), keepdims=True)

    def draw_noise(key, sample):
        sample_key = jax.random.fold_in(key, sample)
        return jax.random.normal(sample_key, images.shape[1:])

    def add_map(total, sample):
        unit_noise = jax.vmap(draw_noise, (0, None))(keys, sample)
        maps = method(network, images + deviation * unit_noise, targets)
        return total + maps, None

    total, _ = jax.lax.scan(add_map, jnp.zeros(images.shape[:3]), jnp.arange(samples))
    return total / samples
