"""Figures of a data set.

class_distribution("figure_4_1.png", source.labels, source.splits, len(names))
"""

import os

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def class_distribution(
    path: str | os.PathLike, labels: np.ndarray, splits: dict, num_classes: int
) -> None:
    """Draws the number of pictures of each class (the paper's Figure 4.1).

    Args:
      path: of the PNG.
      labels: int [N].
      splits: {name: indices of its pictures}, drawn one on the other.
      num_classes: C.
    """
    figure, axis = plt.subplots(figsize=(12, 4))
    bottom = np.zeros(num_classes, int)
    for name, indices in splits.items():
        counts = np.bincount(labels[indices], minlength=num_classes)
        axis.bar(
            range(num_classes), counts, 0.9, bottom, label=f"{name} {counts.sum()}"
        )
        bottom += counts
    axis.set_xlim(-1, num_classes)
    axis.set_xlabel("class")
    axis.set_ylabel("pictures")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
