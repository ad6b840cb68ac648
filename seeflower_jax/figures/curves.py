"""Draw the learning curves of runs.

write_learning_curves("learning_curves.png", records.read_log("runs/vgg16_seed0"))
write_comparison("figure_4_4.png", {"VGG16": vgg16_log, "VGG19": vgg19_log})
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from seeflower_jax.figures import canvas, text

# A line of `metrics.jsonl`: stage, epoch, metrics of 'train' and 'validation'.
Epoch = Mapping[str, Any]


def write_learning_curves(path: str | os.PathLike, log: Sequence[Epoch]) -> None:
    """Draw loss and accuracy over the epochs, one column per stage.

    Args:
      path: path of the PNG.
      log: log of a run, as `records.read_log` returns it.
    """
    columns: dict[str, list[tuple[int, Epoch]]] = {}
    for epoch in log:
        columns.setdefault(epoch["stage"], []).append((epoch["epoch"], epoch))
    _write_columns(path, columns)


def write_comparison(
    path: str | os.PathLike, logs: Mapping[str, Sequence[Epoch]]
) -> None:
    """Draw loss and accuracy of several runs, one column per run.

    The stages of a run follow one another.

    Args:
      path: path of the PNG.
      logs: {title of the run: its log}.
    """
    columns = {title: list(enumerate(log, start=1)) for title, log in logs.items()}
    _write_columns(path, columns)


def _write_columns(
    path: str | os.PathLike, columns: Mapping[str, Sequence[tuple[int, Epoch]]]
) -> None:
    """Draw loss above accuracy; a column is a list of (epoch number, epoch)."""
    size = 4.5 * len(columns), 6
    with canvas.png(
        path, rows=2, columns=len(columns), size=size, share_y="row"
    ) as axes:
        for column, (title, epochs) in zip(axes.T, columns.items(), strict=True):
            for axis, metric in zip(column, ("loss", "top1"), strict=True):
                for split, style in (("train", "-"), ("validation", "o-")):
                    points = [
                        (number, epoch[split][metric])
                        for number, epoch in epochs
                        if split in epoch
                    ]
                    if points:
                        axis.plot(*zip(*points, strict=True), style, ms=3, label=split)
                axis.grid(alpha=0.3)
                axis.set_xlabel("epoch")
            column[0].set_title(text.printable(title))
        axes[0, 0].set_ylabel("loss")
        axes[1, 0].set_ylabel("top-1 accuracy")
        axes[1, 0].legend()
