"""Draw the number of images of each class.

write_class_counts("figure_4_1.png", source.labels, source.splits, num_classes)
"""

import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from seeflower_jax.figures import canvas, text


def write_class_counts(
    path: str | os.PathLike,
    labels: Int[np.ndarray, " n"],
    splits: Mapping[str, Int[np.ndarray, " m"]],
    num_classes: int,
) -> None:
    """Draw the number of images of each class (the paper's Figure 4.1).

    Args:
      path: path of the PNG.
      labels: class index of each image.
      splits: indices of images by the name of the split; splits are stacked.
      num_classes: number of bars.
    """
    with canvas.png(path, size=(12, 4)) as axes:
        axis = axes[0, 0]
        heights = np.zeros(num_classes, int)
        for name, indices in splits.items():
            counts = np.bincount(labels[indices], minlength=num_classes)
            label = text.printable(f"{name} {counts.sum()}")
            axis.bar(range(num_classes), counts, 0.9, heights, label=label)
            heights += counts
        axis.set_xlim(-1, num_classes)
        axis.set_xlabel("class")
        axis.set_ylabel("images")
        axis.legend()
