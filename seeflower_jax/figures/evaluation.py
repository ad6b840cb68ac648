"""Draw the confusion matrix and the reliability diagrams of a split.

write_confusion_matrix("confusion_matrix.png", confusion, class_names)
write_reliability("reliability.png", {1.0: calibration.reliability(logits, labels)})
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from seeflower_jax.evaluation import calibration
from seeflower_jax.evaluation.calibration import Reliability
from seeflower_jax.figures import canvas, text

# Names in a confusion matrix, and characters in a name. They bound the size of the PNG.
_MOST_NAMES, _LONGEST = 200, 90


def write_confusion_matrix(
    path: str | os.PathLike,
    confusion: Int[np.ndarray, "c c"],
    class_names: Sequence[str],
) -> None:
    """Draw how often each true class (row) was predicted as each class (column).

    Of more than 200 classes, only some names are drawn, at equal distances.
    """
    names = [text.shortened(name, _LONGEST) for name in class_names]
    count = len(names)
    step = -(-count // _MOST_NAMES)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 4 + 0.13 * min(count, _MOST_NAMES) + 0.05 * max(map(len, names))
    with canvas.png(path, size=(side, side), fit=True) as axes:
        axis = axes[0, 0]
        # The square root makes single mistakes visible next to a full diagonal.
        image = axis.imshow(np.sqrt(shares), cmap="viridis", vmin=0, vmax=1)
        places, names = range(0, count, step), names[::step]
        axis.set_xticks(places, names, rotation=90, fontsize=6)
        axis.set_yticks(places, names, fontsize=6)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        bar = axis.figure.colorbar(image, ax=axis, fraction=0.03, pad=0.02)
        ticks = np.array([0, 0.01, 0.05, 0.2, 0.5, 1])
        bar.set_ticks(np.sqrt(ticks), labels=[f"{tick:.0%}" for tick in ticks])
        bar.set_label("share of the true class")


def write_reliability(
    path: str | os.PathLike, reliability_by_temperature: Mapping[float, Reliability]
) -> None:
    """Draw accuracy by confidence, one diagram per temperature.

    The title has the calibration error, unless there are too few images for it.
    """
    columns = len(reliability_by_temperature)
    size = 4 * columns, 4.2
    with canvas.png(path, columns=columns, size=size, share_y=True) as axes:
        for axis, (temperature, reliability) in zip(
            axes[0], reliability_by_temperature.items(), strict=True
        ):
            bins = len(reliability.counts)
            left = np.arange(bins) / bins
            axis.bar(left, reliability.accuracy, 1 / bins, align="edge", edgecolor="w")
            axis.plot([0, 1], [0, 1], "--", color="grey", lw=1)
            count = reliability.counts.sum()
            quality = f"calibration error {reliability.error:.3f}"
            if count < calibration.MIN_IMAGES:
                quality = f"{count} images, too few to measure"
            axis.set_title(f"temperature {temperature:.2f}: {quality}", fontsize=10)
            axis.set_xlabel("probability of the predicted class")
            axis.set_xlim(0, 1)
            axis.set_ylim(0, 1)
        axes[0, 0].set_ylabel("accuracy")
