"""Random points of GradientSHAP, on paths from baselines to noisy images.

share, index, noise = draw(key, sample, count=len(baselines), shape=image.shape)
"""

import jax
from jaxtyping import Array, Float, Int, Key


def draw(
    key: Key[Array, ""], sample: Int[Array, ""], count: int, shape: tuple[int, ...]
) -> tuple[Float[Array, ""], Int[Array, ""], Float[Array, "h w 3"]]:
    """Draw a sample: a share in [0, 1], the index of a baseline, and noise.

    Args:
      key: of the image.
      sample: number of the sample.
      count: number of baselines.
      shape: of the image.

    Example:
      >>> share, index, noise = draw(jax.random.key(0), jnp.array(2), 1, (8, 8, 3))
      >>> bool(0 <= share < 1), int(index), noise.shape
      (True, 0, (8, 8, 3))
    """
    of_share, of_index, of_noise = jax.random.split(jax.random.fold_in(key, sample), 3)
    return (
        jax.random.uniform(of_share),
        jax.random.randint(of_index, (), 0, count),
        jax.random.normal(of_noise, shape),
    )
