"""Solve a linear head in closed form, on the features of all training images.

    fit = solve(features, labels, num_classes=102)
    logits = (features - fit.mean) / np.sqrt(fit.variance + EPSILON) @ fit.kernel
    logits += fit.bias

The head is a ridge regression of the one-hot labels on standardised features.
Leave-one-out cross-validation on the training split chooses the strength of the
regularisation, and the scale that turns the regression into logits.

    step = make_ridge_step(spec)            # the only step of a stage
    state, metrics = step(state, batch, key)
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
import scipy.special
from jaxtyping import Float, Int

from seeflower_jax import models
from seeflower_jax.models.classifier import STANDARDIZE_EPSILON as EPSILON
from seeflower_jax.sharding import processes
from seeflower_jax.training.decomposition import (
    Covariance,
    Design,
    Features,
    Kernel,
    decompose,
    parts,
)
from seeflower_jax.training.losses import Distillation
from seeflower_jax.training.step import Step

# Multiples of the mean eigenvalue of the features' kernel matrix [m, m]. The mean
# eigenvalue of their covariance [d, d] is m / d times as large.
STRENGTHS = tuple(np.geomspace(1e-3, 10, 13))
# With this total number of views or more, the head is solved on one view of each image,
# because the time grows with the cube of the number.
MAX_VIEWS = 2**14
_LOG_SCALES = np.log(1.0), np.log(1e3)

Labels = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A linear head, and how well it predicts training images that it has not seen.

    Attributes:
      mean: mean of each feature over the training images, [d].
      variance: variance of each feature over the training images, [d].
      kernel: kernel for standardised features, [d, c].
      bias: bias of each class, [c].
      strength: the regularisation, one of `STRENGTHS`.
      scale: factor from the regression to logits; `kernel` and `bias` include it.
      logits: leave-one-out logits of the training images, the mean of their views,
        [n, c].
      loss: mean cross entropy of `logits`.
    """

    mean: Float[np.ndarray, " d"]
    variance: Float[np.ndarray, " d"]
    kernel: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]
    strength: float
    scale: float
    logits: Float[np.ndarray, "n c"]
    loss: float

    def __call__(self, features: Features) -> Float[np.ndarray, "n c"]:
        """Return the logits of features."""
        standardised = (features - self.mean) / np.sqrt(self.variance + EPSILON)
        return standardised @ self.kernel + self.bias


def solve(
    features: Features,
    labels: Labels,
    num_classes: int,
    balanced: bool = False,
    factors: Float[np.ndarray, " d"] | float = 1.0,
    targets: Float[np.ndarray, "n c"] | None = None,
) -> Fit:
    """Fit a linear head by ridge regression, with the best strength of `STRENGTHS`.

    The strength and the scale minimise the cross entropy of the leave-one-out logits.
    All strengths share one eigendecomposition: of the kernel matrix [m, m] if there are
    more features than rows, else of the covariance [d, d].

    Source: Hastie, Tibshirani and Friedman 2009, "The elements of statistical
    learning", sections 3.4.1 and 18.3.5, and equation 7.64.

    Args:
      features: features of the training images, [m, d], in memory or mapped from a
        file. An image may have several views, which are consecutive rows. All views of
        an image are left out together.
      labels: class of each image, [n]; m is a multiple of n.
      num_classes: number of logits.
      balanced: whether all classes have the same weight. By default, all images have
        the same weight.
      factors: factors on the standardised features. A feature with a larger factor is
        regularised less.
      targets: distribution over the classes that the head learns for each image; its
        label by default. The strength, the scale and the leave-one-out logits still
        come from the labels, because a teacher has seen the label that is left out.
    """
    views = len(features) // len(labels)
    image_weights = np.ones(len(labels))
    if balanced:
        image_weights /= np.bincount(labels)[labels]
        image_weights /= image_weights.mean()
    weights = np.repeat(image_weights, views)
    mean, variance = _moments(features, weights)
    roots = np.sqrt(weights)
    design = Design(features, mean, factors / np.sqrt(variance + EPSILON), roots)
    one_hot = np.eye(num_classes)[np.repeat(labels, views)]
    prior, centred = _centre(one_hot, weights)
    spectrum = decompose(design)
    projected = spectrum.project(centred)
    unit = spectrum.values.sum() / len(features) or 1.0
    shrinks = [spectrum.values / (spectrum.values + s * unit) for s in STRENGTHS]
    residuals = _left_out(spectrum, shrinks, centred, projected, roots, views)
    of_images = np.eye(num_classes)[labels]
    candidates = [
        (*_best_scale(of_images - residual, labels, image_weights), number)
        for number, residual in enumerate(residuals)
    ]
    loss, scale, best = min(candidates)
    strength, left_out = STRENGTHS[best], of_images - residuals[best]
    if targets is not None:
        prior, centred = _centre(np.repeat(targets, views, axis=0), weights)
        projected = spectrum.project(centred)
    kernel = spectrum.coefficients(projected, strength * unit)
    return Fit(
        mean=mean,
        variance=variance,
        kernel=scale * kernel * np.broadcast_to(factors, len(mean))[:, None],
        bias=scale * prior,
        strength=float(strength),
        scale=scale,
        logits=scale * left_out,
        loss=loss,
    )


def _centre(
    targets: Float[np.ndarray, "m c"], weights: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "m c"]]:
    """Return the mean of the targets, and the weighted differences from it."""
    prior = (weights[:, None] * targets).mean(0)
    return prior, np.sqrt(weights)[:, None] * (targets - prior)


def _left_out(
    spectrum: Kernel | Covariance,
    shrinks: Sequence[Float[np.ndarray, " k"]],
    centred: Float[np.ndarray, "m c"],
    projected: Float[np.ndarray, "k c"],
    roots: Float[np.ndarray, " m"],
    views: int,
) -> Float[np.ndarray, "s n c"]:
    """Return the residuals of each image after a fit without it, the mean of its views.

    They are (1 - H)^-1 times the residuals of the fit with all rows, where H is the
    block of the hat matrix that belongs to the image. Each strength shrinks the
    singular vectors by other factors, `shrinks`.
    """
    count, classes = centred.shape
    means = np.empty((len(shrinks), count // views, classes))
    for part in parts(count, views):
        left = spectrum.rows(part)
        by_image = left.reshape(-1, views, left.shape[1])
        weights = roots[part].reshape(-1, views, 1)
        of_intercept = weights @ weights.swapaxes(1, 2) / count
        images = slice(part.start // views, part.stop // views)
        for number, shrink in enumerate(shrinks):
            hat = by_image * shrink @ by_image.swapaxes(1, 2) + of_intercept
            residuals = centred[part] - left @ (shrink[:, None] * projected)
            residuals = residuals.reshape(-1, views, classes)
            residuals = np.linalg.solve((1 + 1e-9) * np.eye(views) - hat, residuals)
            means[number, images] = (residuals / weights).mean(1)
    return means


def solve_side_by_side(
    blocks: Sequence[Features], labels: Labels, num_classes: int, balanced: bool = False
) -> Fit:
    """Fit a linear head on several blocks of features, each with the same total weight.

    Args:
      blocks: features of the same images; the head reads them side by side.
      labels, num_classes, balanced: as for `solve`.
    """
    widths = [block.shape[1] for block in blocks]
    factors = np.repeat(1 / np.sqrt(widths), widths)
    return solve(np.concatenate(blocks, 1), labels, num_classes, balanced, factors)


def _moments(
    features: Features, weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Return the weighted mean and variance of each feature."""
    mean, variance = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    shares = weights / weights.sum()
    for part in parts(len(features)):
        mean += shares[part] @ features[part]
    for part in parts(len(features)):
        variance += shares[part] @ (features[part] - mean) ** 2
    return mean, variance


def _best_scale(
    values: Float[np.ndarray, "n c"], labels: Labels, weights: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Return the smallest mean cross entropy of `scale * values`, and this scale."""
    rows = np.arange(len(labels))

    def loss(log_scale: float) -> float:
        log_probabilities = scipy.special.log_softmax(np.exp(log_scale) * values, -1)
        return -float(np.average(log_probabilities[rows, labels], weights=weights))

    # The loss is convex in the scale, so it has one minimum.
    best = scipy.optimize.minimize_scalar(loss, bounds=_LOG_SCALES)
    return float(best.fun), float(np.exp(best.x))


@dataclasses.dataclass(frozen=True, eq=False)
class WholeSplit:
    """The features of all training images, as the only batch of an epoch.

    Attributes:
      features: one or more rows for each image, see `solve`.
      labels: class of each image.
      teacher: logits of a teacher for each image, or None.
    """

    features: Features
    labels: Labels
    teacher: Float[np.ndarray, "n c"] | None = None
    steps_per_epoch: int = 1

    def __call__(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batch of each step from `start` to before `stop`."""
        for _ in range(start, stop):
            batch = {"features": self.features, "labels": self.labels}
            yield batch if self.teacher is None else batch | {"teacher": self.teacher}


def make_ridge_step(
    spec: models.ModelSpec,
    balanced: bool = False,
    distillation: Distillation | None = None,
) -> Step:
    """Build step(state, batch, key) -> (state, metrics), which solves the head.

    The metrics are the same as in `step.make_image_step`, for leave-one-out logits.

    Args:
      spec: spec of a network whose head standardises features and has one layer.
      balanced: whether all classes have the same weight.
      distillation: how the head learns from the logits `teacher` of the batch. The head
        is a regression of the blend of labels and teacher.
    """

    def step(state, batch, key):
        labels, targets = batch["labels"], None
        if distillation is not None:
            one_hot = np.eye(spec.num_classes)[labels]
            targets = np.asarray(distillation.blend(one_hot, batch["teacher"]))
        fit = solve(
            batch["features"], labels, spec.num_classes, balanced, targets=targets
        )
        head = {"kernel": fit.kernel, "bias": fit.bias}
        trainable, statistics, sums = processes.agree_on_arrays(
            (
                {f"head/logits/{k}": v.astype(np.float32) for k, v in head.items()},
                {"mean": np.float32(fit.mean), "var": np.float32(fit.variance)},
                {
                    "loss": fit.loss * len(labels),
                    "correct": (fit.logits.argmax(-1) == labels).sum(),
                },
            )
        )
        updates = jax.tree.map(jnp.subtract, trainable, state.trainable)
        batch_stats = {**state.batch_stats, "head": {"norm": statistics}}
        state = state.replace(
            step=state.step + 1,
            trainable=trainable,
            batch_stats=jax.tree.map(jnp.float32, batch_stats),
        )
        return state, {
            **sums,
            "count": len(labels),
            "gradient_norm": 0.0,
            "update_norm": optax.tree.norm(updates),
        }

    return step
