"""Tables and the confusion matrix of an evaluated split.

write(folder, metrics, logits, labels, class_names, temperature)
"""

import csv
import json
import os
import pathlib

import matplotlib
import numpy as np

from seeflower_jax.evaluation import calibration
from seeflower_jax.evaluation import metrics as metrics_lib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def write(
    out: str | os.PathLike,
    metrics: dict,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    temperature: float,
) -> None:
    """Writes metrics.json, per_class.csv, confusion_matrix.csv, confusion_matrix.png
    and reliability.png.

    Args:
      out: the folder.
      metrics: of the split.
      logits: [N, C].
      labels: int [N].
      class_names: [C].
      temperature: that calibrates the logits.
    """
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    confusion = metrics_lib.confusion_matrix(
        logits.argmax(-1), labels, len(class_names)
    )
    rows = metrics_lib.per_class(confusion, class_names)
    with open(out / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    with open(out / "confusion_matrix.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["true \\ predicted", *class_names])
        table.writerows(
            [name, *row] for name, row in zip(class_names, confusion, strict=True)
        )
    _draw_confusion(out / "confusion_matrix.png", confusion, class_names)
    _draw_reliability(out / "reliability.png", logits, labels, temperature)


def _draw_confusion(path, confusion, class_names) -> None:
    count = len(class_names)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 4 + 0.13 * count
    figure, axis = plt.subplots(figsize=(side, side))
    # The square root lets single mistakes be seen beside a full diagonal.
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


def _draw_reliability(path, logits, labels, temperature) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), sharey=True)
    for axis, value in zip(axes, (1.0, temperature), strict=True):
        found = calibration.reliability(logits, labels, value)
        left = np.arange(len(found.counts)) / len(found.counts)
        axis.bar(left, found.accuracy, 1 / len(left), align="edge", edgecolor="w")
        axis.plot([0, 1], [0, 1], "--", color="grey", lw=1)
        axis.set_title(
            f"temperature {value:.2f}: calibration error {found.error:.3f}", fontsize=10
        )
        axis.set_xlabel("probability of the predicted class")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("accuracy")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
