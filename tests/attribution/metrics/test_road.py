"""ROAD on images whose imputation is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax.attribution.metrics import road


@pytest.fixture(scope="module")
def case():
    """Return a network that uses only one quarter, images, good maps and labels."""

    def network(images, taps=None):
        brightness = (images[:, :8, :8] / 127.5 - 1).mean((1, 2, 3))
        return jnp.stack([8 * brightness, jnp.zeros_like(brightness)], -1), {}

    images = jnp.full((3, 16, 16, 3), 60.0).at[:, :8, :8].set(255.0)
    good = jnp.zeros((3, 16, 16)).at[:, :8, :8].set(1.0)
    return network, images, good, jnp.zeros(3, jnp.int32)


def test_imputation_is_smooth_and_leaves_the_rest():
    rows = jnp.arange(12.0)[:, None, None] * jnp.ones((12, 12, 3))
    removed = jnp.zeros((1, 12, 12), bool).at[0, 4:8, 4:8].set(True)
    imputed = road._impute(rows[None], removed)
    np.testing.assert_allclose(imputed, rows[None], atol=0.1)  # a plane is harmonic
    np.testing.assert_array_equal(imputed[~removed], rows[None][~removed])


def test_road_tells_good_from_bad(case):
    network, images, good, labels = case
    most, least = road.road(network, images, good, labels, (0.25, 0.5))
    assert most.shape == least.shape == (2, 3)
    np.testing.assert_allclose(least, 1.0, atol=1e-3)
    assert (most < 0.2).all()


def test_both_orders_in_one_number(case):
    network, images, good, labels = case
    # Without the bright quarter, all pixels are 60, and so are the imputed ones.
    bright, dark = jax.nn.sigmoid(8 * (np.array([255.0, 60.0]) / 127.5 - 1))
    score = road.road_combined(network, images, good, labels, (0.25,))
    np.testing.assert_allclose(score, (bright - dark) / 2, rtol=1e-5)
    opposite = road.road_combined(network, images, -good, labels, (0.25,))
    np.testing.assert_allclose(opposite, -score, rtol=1e-5)
    even = jnp.full_like(images, 90.0)
    nothing = road.road_combined(network, even, good, labels)
    np.testing.assert_allclose(nothing, 0, atol=1e-6)
