"""Activation maximisation on a network with a known optimal image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax.attribution import activation_max
from seeflower_jax.attribution.activation_max import (
    PLAIN,
    ROBUST,
    maximise,
    moments,
    statistics,
    unnaturalness,
)


def network(images, taps=None):
    """Return logits: class 0 likes red, class 1 likes green, class 2 likes dark."""
    unit = images / 127.5 - 1
    colours = unit.mean((1, 2))
    return jnp.stack([colours[:, 0], colours[:, 1], -colours.sum(-1)], -1), {}


@pytest.mark.parametrize("form", [PLAIN, ROBUST])
def test_images_have_the_colours_that_classes_like(form):
    classes = jnp.array([1, 0, 2])
    result = maximise(network, classes, jax.random.key(0), form, size=16, steps=60)
    assert result.images.shape == (3, 16, 16, 3) and result.curves.shape == (60, 3)
    assert (result.images >= 0).all() and (result.images <= 255).all()
    assert (result.curves[-1] > result.curves[0] + 0.2).all()
    np.testing.assert_array_equal(network(result.images)[0].argmax(-1), classes)
    expected = network(result.images)[0][jnp.arange(3), classes]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-5)


def test_optimum_of_the_papers_objective():
    """For a linear score w.x and lambda, the optimal x is w / (2 lambda) = 0.25."""
    form = activation_max.Form(fourier=False, learning_rate=0.02, l2=2.0)
    classes = jnp.array([0])
    result = maximise(network, classes, jax.random.key(0), form, size=8, steps=400)
    unit = result.images[0] / 127.5 - 1
    # The mean square is over three colours, so the best red is 3 times 0.25.
    np.testing.assert_allclose(unit[..., 0], 0.75, atol=0.02)
    np.testing.assert_allclose(unit[..., 1:], 0.0, atol=0.02)


def test_optimum_near_the_end_of_the_range():
    """Adam's momentum carries the pixels beyond 255, from where they return."""

    def network(images, taps=None):
        unit = images / 127.5 - 1
        return -10 * ((unit - 0.9) ** 2).mean((1, 2)), {}

    form = dataclasses.replace(PLAIN, l2=0.0)
    classes = jnp.array([0])
    result = maximise(network, classes, jax.random.key(0), form, size=4, steps=256)
    np.testing.assert_allclose(result.images[..., 0], 127.5 * 1.9, atol=0.1)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_class_does_not_depend_on_the_others(impl):
    key = jax.random.key(3, impl=impl)
    two_classes = maximise(network, jnp.array([2, 1]), key, ROBUST, size=16, steps=5)
    one_class = maximise(network, jnp.array([1]), key, ROBUST, size=16, steps=5)
    np.testing.assert_allclose(two_classes.images[1], one_class.images[0], atol=0.01)
    other_key = maximise(
        network, jnp.array([1]), jax.random.key(4), ROBUST, size=16, steps=5
    )
    assert np.abs(other_key.images - one_class.images).max() > 0.5


def test_total_variation_smooths():
    rough = activation_max.Form(fourier=True, learning_rate=0.05)
    smooth = activation_max.Form(fourier=True, learning_rate=0.05, total_variation=50.0)

    def variation(form):
        result = maximise(
            network, jnp.array([0]), jax.random.key(0), form, size=16, steps=80
        )
        return np.abs(np.diff(result.images, axis=1)).mean()

    assert variation(smooth) < 0.5 * variation(rough)


def test_unnaturalness_is_one_on_average_for_the_photographs_themselves():
    rng = np.random.default_rng(0)
    layer = rng.normal(rng.normal(size=(200, 1, 1, 6)), 2.0, (200, 9, 9, 6))
    endpoints = {"layer": jnp.array(layer), "pooled": jnp.ones((200, 6))}
    natural = statistics(moments(endpoints))
    assert natural.keys() == {"layer"}
    np.testing.assert_allclose(natural["layer"][0][:6], layer.mean((0, 1, 2)), 1e-4)
    of_photos = unnaturalness(endpoints, natural)
    assert of_photos.shape == (200,)
    np.testing.assert_allclose(of_photos.mean(), 1.0, atol=0.05)
    far = unnaturalness({"layer": endpoints["layer"] + 10.0}, natural)
    assert far.min() > 10 * of_photos.max()


def test_naturalness_keeps_images_near_the_photographs():
    form = activation_max.Form(fourier=True, learning_rate=0.1)
    natural_form = dataclasses.replace(form, naturalness=10.0)
    photos = jax.random.uniform(jax.random.key(5), (50, 16, 16, 3), maxval=255)

    def with_map(images, taps=None):
        return network(images)[0], {"pixels": images}

    photo_statistics = statistics(moments(with_map(photos)[1]))

    def distances_and_scores(form, natural):
        result = maximise(
            with_map,
            jnp.array([0, 2]),
            jax.random.key(0),
            form,
            size=16,
            steps=80,
            natural=natural,
        )
        endpoints = {"pixels": result.images}
        return unnaturalness(endpoints, photo_statistics), result.scores

    free, free_scores = distances_and_scores(form, photo_statistics)
    near, near_scores = distances_and_scores(natural_form, photo_statistics)
    assert (near < 0.5 * free).all() and (near_scores < free_scores).all()
    without_statistics, _ = distances_and_scores(natural_form, None)
    np.testing.assert_allclose(without_statistics, free, rtol=1e-4)


def test_log_odds_suppress_what_classes_share():
    """Classes 0 and 1 share green; the log-odds of class 0 depend on red alone."""

    def alike(images, taps=None):
        red, green, _ = jnp.moveaxis((images / 127.5 - 1).mean((1, 2)), -1, 0)
        return jnp.stack([2 * green + red, 2 * green - red], -1), {}

    def mean_colour(objective):
        form = activation_max.Form(
            fourier=False, learning_rate=0.02, objective=objective, l2=3.0
        )
        result = maximise(
            alike, jnp.array([0]), jax.random.key(0), form, size=8, steps=200
        )
        red, green, _ = result.images[0].mean((0, 1)) / 127.5 - 1
        return float(red), float(green)

    red, green = mean_colour("logit")
    assert green > 1.5 * red > 0.1
    red, green = mean_colour("log_odds")
    assert red > 0.1 and abs(green) < 0.02


def test_network_with_one_logit():
    def single(images, taps=None):
        return images.mean((1, 2, 3))[:, None], {}

    key, classes = jax.random.key(0), jnp.array([0])
    with pytest.raises(ValueError, match="one logit.*objective is 'logit', such as PL"):
        maximise(single, classes, key, size=8, steps=1)
    form = activation_max.PLAIN
    result = maximise(single, classes, key, form, size=8, steps=1)
    assert np.isfinite(result.images).all()


def test_unknown_objective():
    with pytest.raises(ValueError, match="objective is 'odds'; expected 'logit' or"):
        activation_max.Form(fourier=False, learning_rate=0.1, objective="odds")


def test_feature_noise_is_in_units_of_photographs_and_not_in_large_maps():
    """For maps with standard deviations of 2 and 5, the noise has half of them."""
    natural = {
        "edges": (jnp.array([0.0, 2.0]), jnp.ones(2)),
        "parts": (jnp.array([0.0, 0.0, 2.0, 5.0]), jnp.ones(4)),
    }
    form = activation_max.Form(fourier=False, learning_rate=0.01, feature_noise=0.5)
    recorded_taps = []

    def recording_network(images, taps=None):
        count = len(images)
        maps = {"edges": jnp.zeros((count, 32, 32, 1))}
        maps["parts"] = jnp.zeros((count, 8, 8, 2))
        if taps:
            jax.debug.callback(lambda taps: recorded_taps.append(taps), taps)
        return network(images)[0], maps

    def run(natural):
        recorded_taps.clear()
        maximise(
            recording_network,
            jnp.array([0, 1, 2]),
            jax.random.key(0),
            form,
            size=64,
            steps=8,
            natural=natural,
        )
        jax.effects_barrier()
        return list(recorded_taps)

    taps = run(natural)
    assert len(taps) == 8 and all(tap.keys() == {"parts"} for tap in taps)
    noise = np.stack([tap["parts"] for tap in taps])
    assert noise.shape == (8, 3, 8, 8, 2)
    np.testing.assert_allclose(noise.mean((0, 1, 2, 3)), 0, atol=0.25)
    np.testing.assert_allclose(noise.std((0, 1, 2, 3)), [1.0, 2.5], rtol=0.1)
    assert np.abs(noise[0] - noise[1]).min((0, 1, 2)).max() > 0  # new at every step
    assert np.abs(noise[:, 0] - noise[:, 1]).mean() > 0.5  # and for every image
    assert run(None) == []
