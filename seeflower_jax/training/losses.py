"""Compute the loss of a training step.

    loss = Loss(adjustment=log_prior(labels, num_classes=102))
    loss = Loss(distillation=Distillation(weight=0.5, temperature=2.0))
    value = loss(logits, loss.targets(one_hot, teacher_logits))

Without these options, the loss is the cross entropy.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

Targets = Float[Array, "n c"]
Logits = Float[Array, "n c"]


def log_prior(
    labels: Int[np.ndarray, " n"], num_classes: int, strength: float = 1.0
) -> Float[np.ndarray, " c"]:
    """Return `strength` times the logarithm of each class's share of the images.

    Training adds this value to the logits, so rare classes need a larger margin.
    Predictions do not add it.

    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv
    2007.07314, equation 10.

    Args:
      labels: labels of the training images. A class without an image counts as one
        image.
      num_classes: number of classes.
      strength: the paper's tau.

    Example:
      >>> np.exp(log_prior(np.array([0, 1, 1, 1]), 2)).tolist()
      [0.25, 0.75]
    """
    counts = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    return strength * np.log(counts / counts.sum())


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How a network learns from the logits of a teacher.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
    network", arXiv 1503.02531, section 2.

    Attributes:
      weight: share of the teacher in the loss; the labels have the rest.
      temperature: divisor of the logits of the teacher and of the network.
    """

    weight: float
    temperature: float

    def soften(self, teacher: Logits) -> Targets:
        """Return the teacher's distribution at the temperature."""
        return jax.nn.softmax(jnp.asarray(teacher) / self.temperature)

    def blend(self, labels: Targets, teacher: Logits) -> Targets:
        """Return the mean of labels and teacher, which a regression learns."""
        return (1 - self.weight) * labels + self.weight * self.soften(teacher)


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """The mean loss of a batch; at most one of its options is set.

    Attributes:
      adjustment: value added to the logit of each class, see `log_prior`.
      distillation: the teacher's part of the loss.
    """

    adjustment: Float[np.ndarray, " c"] | None = None
    distillation: Distillation | None = None

    def targets(self, labels: Targets, teacher: Logits | None = None) -> jax.Array:
        """Return the targets of the logits, a row for each example.

        With a teacher, its distribution follows the labels in the same row, [n, 2 * c].
        Mixing two images therefore mixes both.
        """
        if self.distillation is None:
            return labels
        assert teacher is not None  # a batch has it
        return jnp.concatenate([labels, self.distillation.soften(teacher)], -1)

    def __call__(self, logits: Logits, targets: jax.Array) -> Float[Array, ""]:
        """Return the mean loss over a batch; the method `targets` returns `targets`."""
        if self.adjustment is not None:
            logits = logits + self.adjustment
        if self.distillation is None:
            return optax.softmax_cross_entropy(logits, targets).mean()
        weight, temperature = self.distillation.weight, self.distillation.temperature
        labels, softened = jnp.split(targets, 2, axis=-1)
        log_probabilities = jax.nn.log_softmax(logits / temperature)
        divergence = optax.losses.kl_divergence(log_probabilities, softened).mean()
        cross_entropy = optax.softmax_cross_entropy(logits, labels).mean()
        # The squared temperature keeps the size of the gradient.
        return (1 - weight) * cross_entropy + weight * temperature**2 * divergence
