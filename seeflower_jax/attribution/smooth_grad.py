"""SmoothGrad: the mean of a method's maps over noisy copies of the picture.

    keys = jax.random.split(jax.random.key(0), len(images))
    maps = smooth_grad(network, images, targets, keys)

Source: Smilkov et al. 2017, arXiv 1706.03825, section 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seeflower_jax.attribution.saliency import saliency
from seeflower_jax.attribution.targets import Targets, resolve


def smooth_grad(
    network: Callable,
    images: jax.Array,
    targets: Targets,
    keys: jax.Array,
    method: Callable = saliency,
    samples: int = 16,
    noise: float = 0.15,
) -> jax.Array:
    """Mean map [N, H, W] over `samples` copies with Gaussian noise.

    Args:
      network, images, targets: see the package.
      keys: [N] random keys, one per picture, so that a picture's map does not depend on
        the batch it is in.
      method: (network, images, targets) -> maps.
      samples: they run one after the other, so memory does not grow with them.
      noise: standard deviation, as a share of the picture's range of values.
    """
    targets = resolve(network, images, targets)
    images = images.astype(jnp.float32)
    deviation = noise * jnp.ptp(images, axis=(1, 2, 3), keepdims=True)

    def add(total, sample):
        noises = jax.vmap(
            lambda key: jax.random.normal(
                jax.random.fold_in(key, sample), images.shape[1:]
            )
        )(keys)
        return total + method(network, images + deviation * noises, targets), None

    total, _ = jax.lax.scan(add, jnp.zeros(images.shape[:3]), jnp.arange(samples))
    return total / samples
