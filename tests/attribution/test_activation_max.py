"""Activation maximisation on a network whose best picture is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax.attribution import activation_max
from seeflower_jax.attribution.activation_max import PLAIN, ROBUST, maximise


def network(images, taps=None):
    """Class 0 likes red, class 1 likes green, class 2 dark."""
    unit = images / 127.5 - 1
    colours = unit.mean((1, 2))
    return jnp.stack([colours[:, 0], colours[:, 1], -colours.sum(-1)], -1), {}


@pytest.mark.parametrize("form", [PLAIN, ROBUST])
def test_pictures_have_the_colours_that_classes_like(form):
    classes = jnp.array([1, 0, 2])
    found = maximise(network, classes, jax.random.key(0), form, size=16, steps=60)
    assert found.images.shape == (3, 16, 16, 3) and found.curves.shape == (60, 3)
    assert (found.images >= 0).all() and (found.images <= 255).all()
    assert (found.curves[-1] > found.curves[0] + 0.2).all()
    np.testing.assert_array_equal(network(found.images)[0].argmax(-1), classes)
    expected = network(found.images)[0][jnp.arange(3), classes]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)


def test_optimum_of_the_papers_objective():
    """For a linear score w.x and lambda, the best x is w / (2 lambda), here 0.25."""
    form = activation_max.Form(fourier=False, learning_rate=0.02, l2=2.0)
    classes = jnp.array([0])
    found = maximise(network, classes, jax.random.key(0), form, size=8, steps=400)
    unit = found.images[0] / 127.5 - 1
    # The mean square is over three colours, so the best red is 3 times 0.25.
    np.testing.assert_allclose(unit[..., 0], 0.75, atol=0.02)
    np.testing.assert_allclose(unit[..., 1:], 0.0, atol=0.02)


def test_a_class_does_not_depend_on_the_others():
    key = jax.random.key(3)
    both = maximise(network, jnp.array([2, 1]), key, ROBUST, size=16, steps=5)
    alone = maximise(network, jnp.array([1]), key, ROBUST, size=16, steps=5)
    np.testing.assert_allclose(both.images[1], alone.images[0], atol=0.01)
    other = maximise(
        network, jnp.array([1]), jax.random.key(4), ROBUST, size=16, steps=5
    )
    assert np.abs(other.images - alone.images).max() > 0.5


def test_total_variation_smooths():
    rough = activation_max.Form(fourier=True, learning_rate=0.05)
    smooth = activation_max.Form(fourier=True, learning_rate=0.05, total_variation=50.0)

    def variation(form):
        found = maximise(
            network, jnp.array([0]), jax.random.key(0), form, size=16, steps=80
        )
        return np.abs(np.diff(found.images, axis=1)).mean()

    assert variation(smooth) < 0.5 * variation(rough)
