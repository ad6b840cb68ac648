"""Random points of GradientSHAP, on paths from baselines to noisy images.

share, index, noise = draw(key, sample, count=len(baselines), image=image)
"""

import jax
from jaxtyping import Array, Float, Int, Key


def draw(
    key: Key[Array, ""],
    sample: Int[Array, ""],
    count: int,
    image: Float[Array, "h w 3"] | jax.ShapeDtypeStruct,
) -> tuple[Float[Array, ""], Int[Array, ""], Float[Array, "h w 3"]]:
    """Draw a sample: a share in [0, 1], the index of a baseline, and noise.

    Args:
      key: of the image.
      sample: number of the sample.
      count: number of baselines.
      image: the image, for the shape and the dtype of the noise.

    Example:
      >>> image = jnp.zeros((8, 8, 3))
      >>> share, index, noise = draw(jax.random.key(0), jnp.array(2), 1, image)
      >>> bool(0 <= share < 1), int(index), noise.shape
      (True, 0, (8, 8, 3))
    """
    of_share, of_index, of_noise = jax.random.split(jax.random.fold_in(key, sample), 3)
    return (
        jax.random.uniform(of_share, dtype=image.dtype),
        jax.random.randint(of_index, (), 0, count, "int32"),
        jax.random.normal(of_noise, image.shape, image.dtype),
    )
