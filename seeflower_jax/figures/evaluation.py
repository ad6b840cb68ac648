"""Draw an evaluated split: its confusion matrix and its reliability.

confusion_matrix("confusion_matrix.png", counts, class_names)
reliability("reliability.png", {1.0: calibration.reliability(logits, labels)})
"""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Int

from seeflower_jax.evaluation.calibration import Reliability

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def confusion_matrix(
    path: pathlib.Path, confusion: Int[np.ndarray, "c c"], class_names: Sequence[str]
) -> None:
    """Draw how often each true class (row) was predicted as each class (column)."""
    count = len(class_names)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 4 + 0.13 * count
    figure, axis = plt.subplots(figsize=(side, side))
    # The square root makes single mistakes visible next to a full diagonal.
    image = axis.imshow(np.sqrt(share), cmap="viridis", vmin=0, vmax=1)
    axis.set_xticks(range(count), class_names, rotation=90, fontsize=6)
    axis.set_yticks(range(count), class_names, fontsize=6)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.02)
    ticks = np.array([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_ticks(np.sqrt(ticks), labels=[f"{tick:.0%}" for tick in ticks])
    bar.set_label("share of the true class")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def reliability(
    path: pathlib.Path, by_temperature: Mapping[float, Reliability]
) -> None:
    """Draw accuracy by confidence, one diagram a temperature."""
    figure, axes = plt.subplots(
        1,
        len(by_temperature),
        figsize=(4 * len(by_temperature), 4.2),
        sharey=True,
        squeeze=False,
    )
    for axis, (temperature, result) in zip(
        axes[0], by_temperature.items(), strict=True
    ):
        left = np.arange(len(result.counts)) / len(result.counts)
        axis.bar(left, result.accuracy, 1 / len(left), align="edge", edgecolor="w")
        axis.plot([0, 1], [0, 1], "--", color="grey", lw=1)
        axis.set_title(
            f"temperature {temperature:.2f}: calibration error {result.error:.3f}",
            fontsize=10,
        )
        axis.set_xlabel("probability of the predicted class")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
    axes[0, 0].set_ylabel("accuracy")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
