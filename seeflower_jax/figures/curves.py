"""Figures of runs, from what they recorded.

learning_curves("runs/inception_seed0")    # writes learning_curves.png there
compare({"VGG16": "runs/vgg16_seed0"}, "figure_4_4.png")
"""

import json
import os
import pathlib
from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def _records(workdir) -> list[dict]:
    path = pathlib.Path(workdir).expanduser() / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def _draw(columns: Mapping[str, list[tuple[int, dict]]], path: pathlib.Path) -> None:
    """Loss above accuracy; a column is [(epoch, record)] under its title."""
    figure, axes = plt.subplots(
        2, len(columns), figsize=(4.5 * len(columns), 6), squeeze=False, sharey="row"
    )
    for column, (title, points) in zip(axes.T, columns.items(), strict=True):
        for axis, key in zip(column, ("loss", "top1"), strict=True):
            for split, style in (("train", "-"), ("validation", "o-")):
                own = [(x, r[split][key]) for x, r in points if split in r]
                if own:
                    axis.plot(*zip(*own, strict=True), style, ms=3, label=split)
            axis.grid(alpha=0.3)
            axis.set_xlabel("epoch")
        column[0].set_title(title)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("top-1 accuracy")
    axes[1, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def learning_curves(workdir: str | os.PathLike) -> pathlib.Path:
    """Draws loss and accuracy over the epochs of all stages of a run.

    Args:
      workdir: a run directory with a `metrics.jsonl`.

    Returns:
      The path of the PNG.
    """
    columns = {}
    for record in _records(workdir):
        columns.setdefault(record["stage"], []).append((record["epoch"], record))
    path = pathlib.Path(workdir).expanduser() / "learning_curves.png"
    _draw(columns, path)
    return path


def compare(runs: Mapping[str, str | os.PathLike], path: str | os.PathLike) -> None:
    """Draws the learning curves of runs side by side, their stages one after the other.

    Args:
      runs: {title: run directory}.
      path: of the PNG.
    """
    columns = {
        title: list(enumerate(_records(workdir), start=1))
        for title, workdir in runs.items()
    }
    _draw(columns, pathlib.Path(path))
