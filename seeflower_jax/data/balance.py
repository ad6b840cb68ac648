"""Draw the examples of an epoch so that every class is equally frequent.

    rows, repeats = balanced_order(seed=(0, 1), epoch=3, labels=labels)

Source: class-balanced sampling, as in Kang et al. 2020, arXiv 1910.09217, section 3.2.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

NONE, SAMPLING = "none", "sampling"
BALANCES = (NONE, SAMPLING)


def balanced_order(
    seed: Sequence[int], epoch: int, labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return the rows of an epoch, which has as many rows as there are examples.

    With n examples of c classes, each class has n // c rows, and n % c random classes
    have one more. Within a class, the counts of two examples differ by at most 1. The
    omitted examples of a large class change with the epoch.

    Args:
      seed, epoch: seed of the random order.
      labels: label of each example.

    Returns:
      The rows in random order, and for each row the number of its earlier occurrences
      in the epoch.
    """
    rng = np.random.default_rng((*seed, epoch))
    counts = np.unique(labels, return_counts=True)[1]
    rows_by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    quotas = np.full(len(counts), len(labels) // len(counts))
    quotas[rng.permutation(len(counts))[: len(labels) % len(counts)]] += 1
    rows, repeats = [], []
    for members, quota in zip(rows_by_class, quotas, strict=True):
        positions = np.arange(quota)
        rows.append(rng.permutation(members)[positions % len(members)])
        repeats.append(positions // len(members))
    order = rng.permutation(len(labels))
    return np.concatenate(rows)[order], np.concatenate(repeats)[order]
