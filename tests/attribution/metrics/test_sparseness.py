"""Sparseness of maps with a known Gini index."""

import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution.metrics.sparseness import sparseness


def test_sparseness():
    maps = jnp.stack([jnp.ones((10, 10)), jnp.zeros((10, 10)).at[2, 3].set(-5.0)])
    maps = jnp.concatenate([maps, jnp.zeros((1, 10, 10))])
    gini = sparseness(maps)
    np.testing.assert_allclose(gini, [0.0, 0.99, 0.0], atol=1e-5)
