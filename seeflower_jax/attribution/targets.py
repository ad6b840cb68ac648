"""Scores: the one number per image that a map explains, computed from the logits.

    score(logits, None)                  # the logit of the predicted class
    score(logits, labels)                # the logit of a given class, int [N]
    score(logits, probability(labels))   # any function of the logits, [N, C] -> [N]
    score(logits, difference(labels, others))     # why one class and not another

The score of a class is its logit, not its softmax probability: the probability also
rises when the logits of other classes fall.

Source: Simonyan et al. 2014, arXiv 1312.6034, section 3.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seeflower_jax.attribution.types import (
    NetworkFunction,
    ScoreFunction,
    Targets,
    as_pytree,
)
from seeflower_jax.models.dtypes import as_float


def score(logits: Float[Array, "n c"], targets: Targets) -> Float[Array, "n"]:
    """Return the score of each image, which a map explains, in at least float32.

    Args:
      logits: the network's logits.
      targets: None for the predicted class, class indices, or a function of the logits.

    Raises:
      ValueError: the logits are not [n, c], or see `as_indices`.

    Example:
      >>> score(jnp.array([[1.0, 5.0], [3.0, 2.0]]), jnp.array([0, 0])).tolist()
      [1.0, 3.0]
    """
    _check_logits(logits.shape)
    logits = as_float(logits)
    if targets is None:  # the derivative of a maximum would have a share of each tie
        targets = logits.argmax(-1)
    if callable(targets):
        return targets(logits)
    indices = as_indices(targets, logits.shape)
    return jnp.take_along_axis(logits, indices[:, None], -1)[:, 0]


def _check_logits(shape: tuple[int, ...]) -> None:
    """Check that logits are [n, c]; the first row of logits alone is [c]."""
    if len(shape) != 2:
        raise ValueError(
            f"the network returns logits of the shape {shape}; expected [n, c]. "
            "A network function returns (logits, endpoints); for a function that "
            "returns the logits alone, use from_function(function)"
        )


def as_indices(
    targets: Int[Array, "n"] | Sequence[int] | ScoreFunction, shape: tuple[int, ...]
) -> Int[Array, "n"]:
    """Return class indices as an array, after checks.

    The values are not checked inside `jit`, where they are not known.

    Args:
      targets: class indices.
      shape: the shape of the logits, (n, c).

    Raises:
      ValueError: there is not one integer for each image, an integer is not the index
        of a class, or the logits are not [n, c]. The message names the first image
        whose integer is not a class.
    """
    if callable(targets):
        raise ValueError(f"targets are {targets!r}; expected class indices")
    _check_logits(shape)
    indices = jnp.asarray(targets)
    if not jnp.issubdtype(indices.dtype, jnp.integer) or indices.shape != shape[:1]:
        raise ValueError(
            f"targets are {indices.dtype}{list(indices.shape)}; expected one class "
            f"index for each image, int[{shape[0]}]"
        )
    if not isinstance(targets, jax.core.Tracer):
        values = np.asarray(targets)
        wrong = (values < 0) | (values >= shape[1])
        if wrong.any():
            row = wrong.argmax()
            raise ValueError(
                f"the target of image {row} of the batch is {values[row]}; expected a "
                f"class index from 0 to {shape[1] - 1}"
            )
    return indices.astype("int32")  # 8 bits could not count all classes


def resolve(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets
) -> Int[Array, "n"] | ScoreFunction:
    """Return the targets, with None replaced by the classes predicted for `images`.

    Methods that alter images call it first, so that every altered image is scored for
    the class of the original image. The classes of a `ClassScore` are replaced, too.
    """
    if isinstance(targets, ClassScore):
        classes = resolve(network, images, targets.targets)
        return dataclasses.replace(targets, targets=classes)
    if targets is not None:
        return targets
    logits = network(images)[0]
    _check_logits(logits.shape)
    return logits.argmax(-1)


def to_arrays(targets: Targets, shape: tuple[int, ...]) -> Targets:
    """Return targets with class indices as arrays, after the checks of `as_indices`.

    Args:
      targets: as for `score`. The indices in a function of this module are checked.
      shape: the shape of the logits, (n, c).

    Raises:
      ValueError: see `as_indices`.
    """
    if isinstance(targets, ClassScore | _Difference):
        return jax.tree.map(lambda indices: as_indices(indices, shape), targets)
    if targets is None or callable(targets):
        return targets
    return as_indices(targets, shape)


# The scores are pytrees with their class indices as leaves. A function that is compiled
# with a score as an argument serves the scores of other classes, too.
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["targets"],
    meta_fields=["function"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class ClassScore:
    """A score of the target class that is computed from the logits of all classes.

    Attributes:
      function: computes the score of each image from its logits and its target.
      targets: the targets, as for `score`. None is the class with the largest logit;
        `resolve` replaces it.
    """

    function: Callable[[Float[Array, "n c"], Targets], Float[Array, "n"]]
    targets: Targets = None

    def __call__(self, logits: Float[Array, "n c"]) -> Float[Array, "n"]:
        """Return the score of each image."""
        return self.function(as_float(logits), self.targets)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["targets", "others"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class _Difference:
    """The score of `difference`."""

    targets: Int[Array, "n"]
    others: Int[Array, "n"]

    def __call__(self, logits: Float[Array, "n c"]) -> Float[Array, "n"]:
        return score(logits, self.targets) - score(logits, self.others)


def probability(targets: Targets = None) -> ClassScore:
    """Return a function of the logits that computes a softmax probability.

    Args:
      targets: the class of the probability, as for `score`. None is the class that the
        network predicts for the image, also while a method alters the image.

    Raises:
      ValueError: when the function is called, if the network has one logit.

    Example:
      >>> probability(jnp.array([1]))(jnp.zeros((1, 4))).tolist()
      [0.25]
    """
    return ClassScore(_softmax_score, _as_leaves(targets))


def _as_leaves(targets: Targets) -> Targets:
    """Return class indices as an array, and other targets as a pytree."""
    if targets is None or callable(targets):
        return as_pytree(targets)
    return jnp.asarray(targets)


def _softmax_score(logits: Float[Array, "n c"], targets: Targets) -> Float[Array, "n"]:
    if logits.shape[1:] == (1,):
        raise ValueError(
            "the network has one logit, and the softmax of one logit is always 1; "
            "return two, as in output=lambda y: jnp.concatenate([0 * y, y], -1)"
        )
    return score(jax.nn.softmax(logits), targets)


def difference(targets: Int[Array, "n"], others: Int[Array, "n"]) -> ScoreFunction:
    """Return a score that shows why a network prefers one class to another.

    The score is the logit of the class minus the logit of the other class. Evidence
    that both classes share cancels.

    Args:
      targets: class indices.
      others: indices of the classes to compare with.

    Example:
      >>> difference(jnp.array([1]), jnp.array([3]))(jnp.array([[1.0, 5.0, 2.0, 4.0]]))
      Array([1.], dtype=float32)
    """
    return _Difference(jnp.asarray(targets), jnp.asarray(others))


def contrast(
    targets: Int[Array, "n"] | None = None,
    references: int = 3,
    strength: float = 0.6,
) -> ClassScore:
    """Return a score that contrasts a class with its most similar classes.

    The score is the logit of the class, minus `strength` times a mean logit of the
    similar classes. The similar classes are the classes with the nearest logits in that
    image. Their probabilities are the weights of the mean, and gradients flow through
    them, too.

    Source: Finer-CAM, Zhang et al. 2025, arXiv 2501.11309, section 3, and the authors'
    code, which defines the weights.

    Args:
      targets: class indices, or None for the predicted classes, as for `probability`.
      references: number of similar classes. If there are fewer other classes, all of
        them count as similar.
      strength: weight of the similar classes.

    Example:
      >>> logits = jnp.array([[1.0, 5.0, 2.0, 4.0]])
      >>> contrast(references=1, strength=0.5)(logits).tolist()   # 5 - 0.5 * 4
      [3.0]
    """
    return ClassScore(_Contrast(references, strength), _as_leaves(targets))


@dataclasses.dataclass(frozen=True)
class _Contrast:
    """The score of `contrast`."""

    references: int
    strength: float

    def __call__(
        self, logits: Float[Array, "n c"], targets: Targets
    ) -> Float[Array, "n"]:
        num_classes = logits.shape[-1]
        if targets is None:
            classes = logits.argmax(-1)
        else:
            classes = as_indices(targets, logits.shape)
        target_logits = score(logits, classes)
        is_target = jax.nn.one_hot(classes, num_classes, dtype=bool)
        distances = jnp.abs(logits - target_logits[:, None])
        _, indices = jax.lax.top_k(
            jnp.where(is_target, -jnp.inf, -distances),
            min(self.references, num_classes - 1),
        )
        similar_logits = jnp.take_along_axis(logits, indices, -1)
        # The softmax over the similar classes is their probability, divided by its sum.
        weights = jax.nn.softmax(similar_logits, -1)
        return target_logits - self.strength * (weights * similar_logits).sum(-1)
