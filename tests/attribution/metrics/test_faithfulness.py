"""Faithfulness metrics on a network with a known correct map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax.attribution.metrics import faithfulness


@pytest.fixture(scope="module")
def case():
    """Return a network that uses only one quarter, images, good maps and labels."""

    def network(images, taps=None):
        brightness = (images[:, :8, :8] / 127.5 - 1).mean((1, 2, 3))
        return jnp.stack([8 * brightness, jnp.zeros_like(brightness)], -1), {}

    rng = np.random.default_rng(0)
    images = jnp.array(rng.uniform(180, 255, (3, 16, 16, 3)), jnp.float32)
    good = jnp.zeros((3, 16, 16)).at[:, :8, :8].set(1.0)
    return network, images, good, jnp.zeros(3, jnp.int32)


def test_deletion_falls_at_once_for_a_good_map(case):
    network, images, good, labels = case
    curve = faithfulness.deletion(network, images, good, labels, steps=8)
    assert curve.shape == (9, 3)
    whole = jax.nn.softmax(network(images)[0])[:, 0]
    np.testing.assert_allclose(curve[0], whole, rtol=1e-6)
    np.testing.assert_allclose(curve[2:], 0.5, atol=1e-6)  # a quarter is removed
    bad = faithfulness.deletion(network, images, -good, labels, steps=8)
    np.testing.assert_allclose(bad[:7], np.tile(whole, (7, 1)), rtol=1e-5)
    assert (faithfulness.area_under(curve) < faithfulness.area_under(bad)).all()


def test_insertion_rises_at_once_for_a_good_map(case):
    network, images, good, labels = case
    striped = images.at[:, :, ::2].set(0.0)
    curve = faithfulness.insertion(network, striped, good, labels, steps=8, sigma=2.0)
    whole = jax.nn.softmax(network(striped)[0])[:, 0]
    np.testing.assert_allclose(curve[2:], np.tile(whole, (7, 1)), rtol=1e-5)
    bad = faithfulness.insertion(network, striped, -good, labels, steps=8, sigma=2.0)
    np.testing.assert_allclose(bad[:7], np.tile(curve[0], (7, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    "metric",
    [functools.partial(faithfulness.deletion, baseline=0.0), faithfulness.insertion],
)
def test_without_labels_the_class_of_the_whole_image_is_followed(case, metric):
    network, images, good, labels = case
    dark = images * good[..., None]  # Black images are of class 1.
    curve = metric(network, dark, good, None, steps=4)
    assert curve.min() < 0.5 < curve.max()
    expected = metric(network, dark, good, labels, steps=4)
    np.testing.assert_array_equal(curve, expected)


def test_blur_keeps_an_even_image_and_the_mean(case):
    even = jnp.full((1, 9, 11, 3), 40.0)
    np.testing.assert_allclose(faithfulness._blur(even, 2.0), even, rtol=1e-5)
    dot = jnp.zeros((1, 21, 21, 1)).at[0, 10, 10].set(1.0)
    assert float(faithfulness._blur(dot, 1.5).sum()) == pytest.approx(1, rel=1e-5)


def test_wrong_options_are_named(case):
    network, images, good, labels = case
    with pytest.raises(ValueError, match="steps is 0; expected a whole number, 1 or"):
        faithfulness.deletion(network, images, good, labels, steps=0)
    with pytest.raises(ValueError, match="sigma is 0; expected a finite number above"):
        faithfulness.insertion(network, images, good, labels, sigma=0)


def test_area_is_by_the_trapezoidal_rule():
    curve = np.random.default_rng(0).uniform(size=(21, 3))
    # As in the authors' code: the sum without half of each end, over the steps.
    expected = (curve.sum(0) - curve[0] / 2 - curve[-1] / 2) / 20
    np.testing.assert_allclose(faithfulness.area_under(curve), expected, rtol=1e-6)
