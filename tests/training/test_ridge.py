"""Test a linear head in closed form."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from seeflower_jax import models
from seeflower_jax.training import decomposition, ridge
from tests import fixtures

CLASSES = 4


def _problem(count, width):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(CLASSES), rng.choice(CLASSES, count - CLASSES)])
    centres = rng.normal(0, 1, (CLASSES, width))
    features = centres[labels] + rng.normal(0, 2, (count, width))
    return (features * rng.uniform(0.1, 10, width)).astype(np.float32), labels


def _reference(features, targets, weights, strength):
    """Solve the normal equations with an explicit, unpenalised intercept."""
    count, width = features.shape
    matrix = np.concatenate([features, np.ones((count, 1))], 1)
    penalty = np.diag([strength] * width + [0.0])
    left = matrix.T @ (weights[:, None] * matrix) + penalty
    right = matrix.T @ (weights[:, None] * targets)
    return np.linalg.solve(left, right)


@pytest.mark.parametrize("count,width", [(30, 50), (60, 12)])
@pytest.mark.parametrize("balanced,soft", [(False, False), (True, False), (True, True)])
def test_solution_and_leave_one_out_logits(count, width, balanced, soft):
    features, labels = _problem(count, width)
    targets = one_hot = np.eye(CLASSES)[labels]
    if soft:  # a teacher's targets do not change what is left out
        rng = np.random.default_rng(1)
        targets = scipy.special.softmax(targets + rng.normal(size=targets.shape), -1)
    counts = np.bincount(labels)
    class_weights = count / CLASSES / counts if balanced else np.ones(CLASSES)
    given = targets if soft else None
    fit = ridge.solve(features, labels, CLASSES, balanced, targets=given)
    weights = class_weights[labels]
    standard = (features - fit.mean) / np.sqrt(fit.variance + ridge.EPSILON)
    np.testing.assert_allclose(
        np.average(standard, 0, weights), np.zeros(width), atol=1e-6
    )
    np.testing.assert_allclose(
        np.average(standard**2, 0, weights), np.ones(width), rtol=1e-3
    )
    total = (weights[:, None] * standard**2).sum()
    strength = fit.strength * total / count
    wanted = fit.scale * _reference(standard, targets, weights, strength)
    np.testing.assert_allclose(fit.kernel, wanted[:-1], atol=1e-6)
    np.testing.assert_allclose(fit.bias, wanted[-1], atol=1e-6)
    for left_out in range(0, count, 7):
        rest = np.arange(count) != left_out
        solution = _reference(standard[rest], one_hot[rest], weights[rest], strength)
        logits = standard[left_out] @ solution[:-1] + solution[-1]
        np.testing.assert_allclose(
            fit.logits[left_out], fit.scale * logits, rtol=1e-6, atol=1e-6
        )
    log_probabilities = scipy.special.log_softmax(fit.logits, -1)
    losses = -log_probabilities[np.arange(count), labels]
    assert fit.loss == pytest.approx(np.average(losses, weights=weights))


@pytest.mark.parametrize("count,width", [(15, 50), (30, 12)])
@pytest.mark.parametrize("balanced", [False, True])
def test_all_views_of_an_image_are_left_out_together(count, width, balanced):
    features, labels = _problem(count, width)
    noise = np.random.default_rng(1).normal(0, 1, (count, 1, width))
    views = np.concatenate([features[:, None], features[:, None] + noise], 1)
    rows = views.reshape(-1, width)
    fit = ridge.solve(rows, labels, CLASSES, balanced)
    counts = np.bincount(labels)
    class_weights = count / CLASSES / counts if balanced else np.ones(CLASSES)
    row_labels = np.repeat(labels, 2)
    one_hot = np.eye(CLASSES)[row_labels]
    weights = class_weights[row_labels]
    standard = (rows - fit.mean) / np.sqrt(fit.variance + ridge.EPSILON)
    strength = fit.strength * (weights[:, None] * standard**2).sum() / (2 * count)
    for left_out in range(0, count, 4):
        rest = np.repeat(np.arange(count) != left_out, 2)
        solution = _reference(standard[rest], one_hot[rest], weights[rest], strength)
        logits = standard[~rest] @ solution[:-1] + solution[-1]
        np.testing.assert_allclose(
            fit.logits[left_out], fit.scale * logits.mean(0), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("count,width", [(30, 25), (60, 12)])
def test_factors_of_features(count, width):
    """A factor of 0 removes a feature, and equal factors change nothing."""
    features, labels = _problem(count, width)
    alone = ridge.solve(features, labels, CLASSES)
    other = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    both = np.concatenate([features, other], 1)
    factors = np.repeat([3.0, 0.0], width)
    fit = ridge.solve(both, labels, CLASSES, factors=factors)
    np.testing.assert_allclose(fit(both), alone(features), atol=1e-6)
    assert (fit.kernel[width:] == 0).all()


def test_blocks_do_not_change_the_solution(monkeypatch):
    for count, width in ((30, 50), (60, 12)):
        features, labels = _problem(count, width)
        whole = ridge.solve(features, labels, CLASSES)
        with monkeypatch.context() as patched:
            patched.setattr(decomposition, "_BLOCK", 7)
            parts = ridge.solve(features, labels, CLASSES)
        np.testing.assert_allclose(parts.kernel, whole.kernel, atol=1e-9)
        assert parts.strength == whole.strength


def _peak_memory(features, labels):
    """Return the most bytes that a solution needs in addition to its features."""
    tracemalloc.start()
    fit = ridge.solve(features, labels, CLASSES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(fit.loss) and fit.kernel.shape == (features.shape[1], CLASSES)
    return peak


def test_memory_of_many_images_does_not_hold_their_singular_vectors():
    peak = _peak_memory(*_problem(40_000, 120))
    assert peak < 40_000 * 120 * 8  # of the left singular vectors


def test_memory_of_many_channels_does_not_hold_their_standardised_values(monkeypatch):
    """The kernel of 600 images is far smaller than their features."""
    monkeypatch.setattr(decomposition, "_BLOCK", 64)
    count, width = 600, 40_000
    peak = _peak_memory(*_problem(count, width))
    assert peak < count * width * 4  # of the features, in half of the precision


def test_constant_features_and_classes_of_one_image():
    features, labels = _problem(12, 20)
    features[:, 3] = 5
    labels[:] = [0, 1, 2, 3, *[0] * 8]
    fit = ridge.solve(features, labels, CLASSES)
    assert np.isfinite(fit.kernel).all() and np.isfinite(fit.loss)
    assert np.abs(fit.kernel[3]).max() < 1e-6


def test_network_computes_what_was_solved():
    spec = models.get_spec(
        "small",
        num_classes=CLASSES,
        input_size=32,
        width=0.1,
        pooling="root_moments",
        pooled=("block[345]",),
        standardize=True,
    )
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).uniform(0, 255, (20, 32, 32, 3))
    features = np.asarray(models.features(spec, variables, images))
    labels = np.arange(20) % CLASSES
    fit = ridge.solve(features, labels, CLASSES)
    variables["params"]["head"]["logits"] = {"kernel": fit.kernel, "bias": fit.bias}
    variables["batch_stats"]["head"]["norm"] = {"mean": fit.mean, "var": fit.variance}
    variables = jax.tree.map(jnp.float32, variables)
    logits, _ = models.apply(spec, variables, images)
    standard = (features - fit.mean) / np.sqrt(fit.variance + ridge.EPSILON)
    np.testing.assert_allclose(
        logits, standard @ fit.kernel + fit.bias, rtol=1e-3, atol=1e-3
    )
    slope = jax.grad(lambda x: models.apply(spec, variables, x)[0].sum())(0 * images)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
