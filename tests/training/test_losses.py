"""Test the loss of a step against formulas of the papers and PyTorch's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax.training.losses import Distillation, Loss, log_prior

CLASSES = 5
LABELS = np.array([0, 2, 4, 4, 1, 4, 2, 3])


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 2, (len(LABELS), CLASSES))


@pytest.fixture
def teacher():
    return np.random.default_rng(1).normal(0, 3, (len(LABELS), CLASSES))


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_adjusted_loss_is_the_pairwise_loss_of_the_paper(logits, strength):
    """Menon et al. 2021, equation 11, with margins by the ratio of class shares."""
    counts = np.bincount(LABELS)
    expected = [
        np.log(sum((counts / counts[y]) ** strength * np.exp(row - row[y])))
        for y, row in zip(LABELS, logits, strict=True)
    ]
    loss = Loss(log_prior(LABELS, CLASSES, strength))
    value = loss(logits, loss.targets(jax.nn.one_hot(LABELS, CLASSES)))
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)


def test_a_class_without_images_is_as_rare_as_one_image():
    prior = np.exp(log_prior(np.array([0, 0, 0, 1]), 3))
    assert prior.tolist() == pytest.approx([0.6, 0.2, 0.2])


@pytest.mark.parametrize("weight,temperature", [(0.3, 1.0), (0.5, 4.0), (1.0, 2.0)])
def test_distillation_is_that_of_pytorch(logits, teacher, weight, temperature):
    import torch

    functional = torch.nn.functional
    student, labels = torch.tensor(logits), torch.tensor(LABELS)
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, -1),
        functional.softmax(torch.tensor(teacher) / temperature, -1),
        reduction="batchmean",
    )
    expected = (1 - weight) * functional.cross_entropy(student, labels)
    expected += weight * temperature**2 * divergence
    loss = Loss(distillation=Distillation(weight, temperature))
    targets = loss.targets(jax.nn.one_hot(LABELS, CLASSES), teacher)
    np.testing.assert_allclose(loss(logits, targets), expected.item(), rtol=1e-5)


def test_hot_distillation_matches_logits(logits, teacher):
    """Hinton et al. 2015, equation 4: the gradient at a high temperature."""
    loss = Loss(distillation=Distillation(1.0, 300.0))
    targets = loss.targets(jax.nn.one_hot(LABELS, CLASSES), teacher)
    gradient = len(LABELS) * jax.grad(loss)(jnp.asarray(logits), targets)
    centred = [x - x.mean(-1, keepdims=True) for x in (logits, teacher)]
    expected = (centred[0] - centred[1]) / CLASSES
    np.testing.assert_allclose(gradient, expected, atol=0.03)


def test_blend_and_targets_have_the_same_gradient_at_temperature_1(logits, teacher):
    """At temperature 1, the loss is the cross entropy with the mean of both targets."""
    distillation = Distillation(0.4, 1.0)
    one_hot = jax.nn.one_hot(LABELS, CLASSES)
    loss, plain = Loss(distillation=distillation), Loss()
    values = jnp.asarray(logits)
    np.testing.assert_allclose(
        jax.grad(loss)(values, loss.targets(one_hot, teacher)),
        jax.grad(plain)(values, distillation.blend(one_hot, teacher)),
        atol=1e-6,
    )
