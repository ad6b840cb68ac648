"""Metrics of a whole split, from all of its logits.

    metrics = evaluate(logits, labels)   # {'top1', 'mean_class_top1', 'top5', ...}

Everything here is exact NumPy on the host; a split's logits are small.
"""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis, natural, float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def evaluate(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Overall and mean class accuracy, top-5 accuracy, loss and count.

    Args:
      logits: [N, C].
      labels: int [N].

    Returns:
      top1: share of examples whose largest logit is the label's.
      mean_class_top1: mean over the classes that occur of their share in top1.
      top5: share of examples whose label is among the five largest logits.
      loss: mean cross entropy, natural logarithm.
      count: N.
    """
    correct = logits.argmax(-1) == labels
    counts = np.bincount(labels)
    per_class = np.bincount(labels, weights=correct)[counts > 0] / counts[counts > 0]
    own = np.take_along_axis(logits, labels[:, None], -1)
    return {
        "top1": float(correct.mean()),
        "mean_class_top1": float(per_class.mean()),
        "top5": float(((logits > own).sum(-1) < 5).mean()),
        "loss": float(
            -np.take_along_axis(log_softmax(logits), labels[:, None], -1).mean()
        ),
        "count": len(labels),
    }


def standard_errors(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Binomial standard errors of the accuracies that `evaluate` gives.

    The mean class accuracy is the mean of independent shares, one a class, so its
    variance is the mean of theirs over the number of classes.
    """
    found = evaluate(logits, labels)
    errors = {
        name: float(np.sqrt(found[name] * (1 - found[name]) / found["count"]))
        for name in ("top1", "top5")
    }
    counts = np.bincount(labels)
    correct = np.bincount(labels, weights=logits.argmax(-1) == labels)[counts > 0]
    counts = counts[counts > 0]
    share = correct / counts
    variances = share * (1 - share) / counts
    errors["mean_class_top1"] = float(np.sqrt(variances.sum()) / len(counts))
    return errors


def confusion_matrix(predictions, labels, num_classes: int) -> np.ndarray:
    """int64 [C, C]: how often class (row) was predicted as class (column)."""
    flat = np.asarray(labels, np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, -1)


def per_class(confusion: np.ndarray, class_names) -> list[dict]:
    """For each class: name, count, correct, recall, precision, most frequent mistake.

    `recall` is None for a class without examples, `precision` for one never predicted,
    `mistaken_for` for one without a mistake.
    """
    rows = []
    for label, name in enumerate(class_names):
        count, predicted = confusion[label].sum(), confusion[:, label].sum()
        correct = confusion[label, label]
        wrong = confusion[label].copy()
        wrong[label] = 0
        rows.append(
            {
                "class": label,
                "name": name,
                "count": int(count),
                "correct": int(correct),
                "recall": float(correct / count) if count else None,
                "precision": float(correct / predicted) if predicted else None,
                "mistaken_for": class_names[wrong.argmax()] if wrong.any() else None,
            }
        )
    return rows
