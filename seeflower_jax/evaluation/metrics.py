"""Compute metrics of a whole split from all of its logits.

    metrics = compute(logits, labels)   # {'top1', 'mean_class_top1', 'top5', ...}

The metrics are exact. NumPy computes them on the host, because the logits of a split
are small.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


def log_softmax(logits: Float[np.ndarray, "*n c"]) -> Float[np.ndarray, "*n c"]:
    """Return the natural logarithm of the softmax over the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def are_finite(logits: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, " n"]:
    """Return whether all logits of each example are finite."""
    return np.isfinite(logits).all(-1)


def are_correct(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return whether the largest logit of each example is at its label.

    An example with logits that are not finite is wrong: it has no largest logit, and
    `argmax` would return the place of the first NaN.
    """
    return (logits.argmax(-1) == labels) & are_finite(logits)


def compute(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Compute overall and mean class accuracy, top-5 accuracy, loss and count.

    An example with logits that are not finite counts as wrong.

    Returns:
      top1: share of examples with the largest logit at the label.
      mean_class_top1: mean of the top1 of all classes with examples.
      top5: share of examples with the label among the five largest logits.
      loss: mean cross entropy, with the natural logarithm; NaN if a logit is NaN.
      count: number of examples.
    """
    correct = are_correct(logits, labels)
    _, class_shares = _class_shares(correct, labels)
    label_logits = np.take_along_axis(logits, labels[:, None], -1)
    log_likelihoods = np.take_along_axis(log_softmax(logits), labels[:, None], -1)
    is_in_top5 = ((logits > label_logits).sum(-1) < 5) & are_finite(logits)
    return {
        "top1": float(correct.mean()),
        "mean_class_top1": float(class_shares.mean()),
        "top5": float(is_in_top5.mean()),
        "loss": float(0 - log_likelihoods.mean()),  # negation would print -0.000
        "count": len(labels),
    }


def standard_errors(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Compute the standard errors of the accuracies that `compute` returns.

    The mean class accuracy is a mean of independent shares, one for each class. The
    variance of the mean is the mean variance divided by the number of classes. The
    variance of a class of n images has the unbiased divisor n - 1, because n may be
    small. A class with a single image adds no variance.
    """
    values = compute(logits, labels)
    errors = {
        name: float(np.sqrt(values[name] * (1 - values[name]) / values["count"]))
        for name in ("top1", "top5")
    }
    counts, shares = _class_shares(are_correct(logits, labels), labels)
    variances = shares * (1 - shares) / np.maximum(counts - 1, 1)
    errors["mean_class_top1"] = float(np.sqrt(variances.sum()) / len(counts))
    return errors


def _class_shares(
    correct: np.ndarray, labels: Int[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the count and the share of correct examples of each class that occurs."""
    counts = np.bincount(labels)
    correct_counts = np.bincount(labels, weights=correct)
    occurs = counts > 0
    return counts[occurs], correct_counts[occurs] / counts[occurs]


def confusion_matrix(
    predictions: Int[np.ndarray, " n"] | Sequence[int],
    labels: Int[np.ndarray, " n"] | Sequence[int],
    num_classes: int,
) -> Int[np.ndarray, "c c"]:
    """Count how often each class (row) was predicted as each class (column)."""
    flat = np.asarray(labels, np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, -1)


def confusion_of_logits(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "c c"]:
    """Return the confusion matrix of the images whose logits are finite.

    An image with other logits has no predicted class.
    """
    finite = are_finite(logits)
    return confusion_matrix(logits[finite].argmax(-1), labels[finite], num_classes)


def per_class(
    confusion: Int[np.ndarray, "c c"], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return count, correct, recall, precision and most frequent mistake of each class.

    `recall` is None for a class without examples. `precision` is None for a class that
    was never predicted. `mistaken_for` is None for a class without a mistake.
    """
    rows = []
    for label, name in enumerate(class_names):
        count, predicted = confusion[label].sum(), confusion[:, label].sum()
        correct = confusion[label, label]
        mistakes = confusion[label].copy()
        mistakes[label] = 0
        rows.append(
            {
                "class": label,
                "name": name,
                "count": int(count),
                "correct": int(correct),
                "recall": float(correct / count) if count else None,
                "precision": float(correct / predicted) if predicted else None,
                "mistaken_for": class_names[mistakes.argmax()]
                if mistakes.any()
                else None,
            }
        )
    return rows


def format_table(metrics_by_split: Mapping[str, Any]) -> str:
    """Format the metrics of splits for a terminal, one line a split.

    Args:
      metrics_by_split: the metrics of 'train', 'validation' and 'test', as `compute`
        returns them. Missing splits and other keys are skipped, so the argument can be
        the content of a `result.json`.
    """
    rows = [["", "top-1", "mean class", "top-5", "loss", "images"]]
    for split in ("train", "validation", "test"):
        if values := metrics_by_split.get(split):
            accuracies = (values[k] for k in ("top1", "mean_class_top1", "top5"))
            shares = [f"{share:.4f}".removeprefix("0") for share in accuracies]
            rows.append([split, *shares, f"{values['loss']:.4f}", str(values["count"])])
    return "\n".join(
        f"{name:12}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in rows
    )
