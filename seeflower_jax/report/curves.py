"""Figures of a run, from what it recorded.

learning_curves("runs/inception_seed0")    # writes learning_curves.png there
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def learning_curves(workdir) -> pathlib.Path:
    """Draws loss and accuracy over the epochs of all stages (the paper's Figure 4.3).

    Args:
      workdir: a run directory with a `metrics.jsonl`.

    Returns:
      The path of the PNG.
    """
    workdir = pathlib.Path(workdir).expanduser()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    stages = list(dict.fromkeys(record["stage"] for record in records))
    figure, axes = plt.subplots(
        2, len(stages), figsize=(4.5 * len(stages), 6), squeeze=False, sharey="row"
    )
    for column, stage in enumerate(stages):
        own = [record for record in records if record["stage"] == stage]
        for axis, key in zip(axes[:, column], ("loss", "top1"), strict=True):
            for split, style in (("train", "-"), ("validation", "o-")):
                points = [(r["epoch"], r[split][key]) for r in own if split in r]
                if points:
                    axis.plot(*zip(*points, strict=True), style, ms=3, label=split)
            axis.grid(alpha=0.3)
            axis.set_xlabel("epoch")
        axes[0, column].set_title(stage)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("top-1 accuracy")
    axes[1, 0].legend()
    figure.tight_layout()
    path = workdir / "learning_curves.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
