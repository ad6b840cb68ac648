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
import scipy.linalg
import scipy.optimize
import scipy.special
from jaxtyping import Float, Int

from seeflower_jax import models
from seeflower_jax.models.classifier import STANDARDIZE_EPSILON as EPSILON
from seeflower_jax.training.losses import Distillation
from seeflower_jax.training.step import Step

# Multiples of the mean eigenvalue of the features' covariance.
STRENGTHS = tuple(np.geomspace(1e-3, 10, 13))
# With this total number of views or more, the head is solved on one view of each image,
# because the time grows with the cube of the number.
MAX_VIEWS = 2**14
_BLOCK = 1024  # features or images at a time, which bounds the memory
_LOG_SCALES = np.log(1.0), np.log(1e3)

Features = Float[np.ndarray, "n d"]
Labels = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A linear head, and how well it predicts training images that it has not seen.

    Attributes:
      mean: mean of each feature over the training images, [d].
      variance: variance of each feature over the training images, [d].
      kernel: kernel for standardised features, [d, c].
      bias: bias of each class, [c].
      strength: the regularisation, a multiple of the mean eigenvalue.
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Design:
    """The scaled features, each row times the root of its image's weight."""

    features: Features
    mean: Float[np.ndarray, " d"]
    scales: Float[np.ndarray, " d"]
    roots: Float[np.ndarray, " n"]

    def rows(self, part: slice) -> Features:
        return self.roots[part, None] * (self.features[part] - self.mean) * self.scales

    def columns(self, part: slice) -> Features:
        block = (self.features[:, part] - self.mean[part]) * self.scales[part]
        return self.roots[:, None] * block


@dataclasses.dataclass(frozen=True, eq=False)
class _Decomposition:
    """The singular value decomposition of a design, `left * sqrt(d * values) * right`.

    Attributes:
      values: squared singular values divided by d.
      left: left singular vectors, [n, k].
      right: right singular vectors, [d, k]; None if d is at least n.
    """

    values: Float[np.ndarray, " k"]
    left: Float[np.ndarray, "m k"]
    right: Float[np.ndarray, "d k"] | None


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
    design = _Design(features, mean, factors / np.sqrt(variance + EPSILON), roots)
    one_hot = np.eye(num_classes)[np.repeat(labels, views)]
    prior, centred = _centre(one_hot, weights)
    spectrum = _decompose(design)
    projected = spectrum.left.T @ centred
    unit = spectrum.values.sum() / len(features) or 1.0
    candidates = []
    for strength in STRENGTHS:
        shrink = spectrum.values / (spectrum.values + strength * unit)
        residuals = centred - spectrum.left @ (shrink[:, None] * projected)
        residuals = _left_out(residuals, spectrum.left, shrink, roots, views)
        left_out = one_hot - residuals / roots[:, None]
        left_out = left_out.reshape(-1, views, num_classes).mean(1)
        loss, scale = _best_scale(left_out, labels, image_weights)
        candidates.append((loss, strength, scale, left_out))
    loss, strength, scale, left_out = min(
        candidates, key=lambda candidate: candidate[0]
    )
    if targets is not None:
        prior, centred = _centre(np.repeat(targets, views, axis=0), weights)
        projected = spectrum.left.T @ centred
    kernel = _coefficients(design, spectrum, projected, strength * unit)
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
    residuals: Float[np.ndarray, "m c"],
    left: Float[np.ndarray, "m k"],
    shrink: Float[np.ndarray, " k"],
    roots: Float[np.ndarray, " m"],
    views: int,
) -> Float[np.ndarray, "m c"]:
    """Return the residuals of each image after a fit without its rows.

    They are (1 - H)^-1 times the residuals of the fit with all rows, where H is the
    block of the hat matrix that belongs to the image.
    """
    blocks = left.reshape(-1, views, left.shape[1])
    hat = blocks * shrink @ blocks.swapaxes(1, 2)
    grouped = roots.reshape(-1, views)
    hat += grouped[:, :, None] * grouped[:, None, :] / len(roots)  # of the intercept
    rest = (1 + 1e-9) * np.eye(views) - hat
    by_image = residuals.reshape(-1, views, residuals.shape[1])
    return np.linalg.solve(rest, by_image).reshape(residuals.shape)


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


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def _moments(
    features: Features, weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Return the weighted mean and variance of each feature."""
    mean, variance = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    shares = weights / weights.sum()
    for part in _blocks(len(features)):
        mean += shares[part] @ features[part]
    for part in _blocks(len(features)):
        variance += shares[part] @ (features[part] - mean) ** 2
    return mean, variance


def _decompose(design: _Design) -> _Decomposition:
    count, width = design.features.shape
    if count <= width:
        blocks = (design.columns(part) for part in _blocks(width))
        gram = sum((b @ b.T for b in blocks), np.zeros((count, count)))
        values, left = scipy.linalg.eigh(gram / width, overwrite_a=True)
        return _Decomposition(np.maximum(values, 0), left, None)
    blocks = (design.rows(part) for part in _blocks(count))
    gram = sum((b.T @ b for b in blocks), np.zeros((width, width)))
    values, right = scipy.linalg.eigh(gram / width, overwrite_a=True)
    values = np.maximum(values, 0)
    left = np.concatenate([design.rows(part) @ right for part in _blocks(count)])
    left /= np.sqrt(np.maximum(values * width, 1e-12))
    return _Decomposition(values, left, right)


def _coefficients(
    design: _Design,
    spectrum: _Decomposition,
    projected: Float[np.ndarray, "k c"],
    penalty: float,
) -> Float[np.ndarray, "d c"]:
    """Return the ridge regression's coefficients of the standardised features."""
    width = design.features.shape[1]
    shrunk = projected / (spectrum.values + penalty)[:, None]
    if spectrum.right is not None:
        return spectrum.right @ (np.sqrt(spectrum.values / width)[:, None] * shrunk)
    dual = spectrum.left @ shrunk / width
    return np.concatenate([design.columns(part).T @ dual for part in _blocks(width)])


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
        trainable = {
            f"head/logits/{name}": value.astype(np.float32)
            for name, value in head.items()
        }
        updates = jax.tree.map(jnp.subtract, trainable, state.trainable)
        statistics = {"mean": fit.mean, "var": fit.variance}
        batch_stats = {**state.batch_stats, "head": {"norm": statistics}}
        state = state.replace(
            step=state.step + 1,
            trainable=trainable,
            batch_stats=jax.tree.map(jnp.float32, batch_stats),
        )
        correct = (fit.logits.argmax(-1) == labels).sum()
        return state, {
            "loss": fit.loss * len(labels),
            "correct": correct,
            "count": len(labels),
            "gradient_norm": 0.0,
            "update_norm": optax.tree.norm(updates),
        }

    return step
