"""Sparseness: how concentrated a map is.

gini = sparseness(maps)     # [N], 0 for a constant map
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.models.dtypes import as_float


def sparseness(maps: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """Compute the Gini index of each map's magnitudes.

    Source: Chalasani et al. 2020, arXiv 1810.06583.

    Returns:
      Values in [0, 1): 0 for a constant map, near 1 for a map with a single pixel.

    Example:
      >>> sparseness(jnp.ones((1, 4, 4))).tolist()
      [0.0]
    """
    flat = jnp.sort(jnp.abs(as_float(maps)).reshape(len(maps), -1), axis=-1)
    count = flat.shape[-1]
    weights = 2 * jnp.arange(1, count + 1) - count - 1
    total = flat.sum(-1)
    safe = jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, (weights * flat).sum(-1) / (count * safe), 0)
