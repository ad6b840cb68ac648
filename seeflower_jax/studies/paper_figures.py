"""Figures 4.5 and 4.6 of the paper, for any run.

    draw(experiment.load_run(workdir), "figures")

The paper's own class names under Figure 4.6 are probably not those of its pictures: its
class folders, named by numbers, were sorted as texts, its names by number. Here a
class is its index in the official order, in training and in the figure.
"""

import os
import pathlib
from collections.abc import Sequence

from seeflower_jax import experiment, explain, maximisation
from seeflower_jax.report import attribution as figures

PAPER_CLASSES = (5, 7, 33, 100, 73)  # of Figure 4.6, by index from 0
# As in the paper: guided backpropagation from the softmax.
SALIENCY = "paper_saliency"


def first_of_classes(labels: Sequence[int], classes: Sequence[int]) -> list[int]:
    """The position of the first picture of each class.

    Raises:
      ValueError: for a class without a picture.
    """
    labels = list(labels)
    for label in classes:
        if label not in labels:
            raise ValueError(f"no picture of class {label} here")
    return [labels.index(label) for label in classes]


def attribution_figure(
    run: experiment.Run,
    path: str | os.PathLike,
    classes: Sequence[int] = PAPER_CLASSES,
    split: str = "test",
) -> None:
    """Figure 4.5: originals, saliency and Grad-CAM in rows, of the true class.

    The pictures are the first of each class in the split, whether the network gets them
    right or not; the titles tell.

    Args:
      run: of `experiment.load_run`.
      path: of the PNG.
      classes: class indices, a column each.
      split: of the run's data.

    Raises:
      ValueError: for a class without a picture in the split.
    """
    pictures = explain.split_pictures(run, split)
    positions = first_of_classes(pictures.labels, classes)
    methods = [SALIENCY, "grad_cam"]
    explainer = explain.make_explainer(run, methods, None, len(positions))
    pixels = [pictures.read(position) for position in positions]
    images, logits, _, maps = explainer(positions, pixels, list(classes))
    names = run.class_names
    titles = [
        f"{names[label]}\n(predicted: {names[found]})"
        for label, found in zip(classes, logits.argmax(-1), strict=True)
    ]
    saliency = [figures.grey(values) for values in maps[SALIENCY]]
    cams = [
        figures.overlay(image, values, signed=False)
        for image, values in zip(images, maps["grad_cam"], strict=True)
    ]
    rows = {"original": images, "saliency": saliency, "Grad-CAM": cams}
    figures.write_rows(pathlib.Path(path), rows, titles)


def activation_figure(
    run: experiment.Run,
    out: str | os.PathLike,
    classes: Sequence[int] = PAPER_CLASSES,
    steps: int = 256,
    size: int = 0,
    command: str = "",
) -> None:
    """Figure 4.6: activation maximisation, the paper's form above the robust one.

    Args:
      run: of `experiment.load_run`.
      out: a folder; it gets figure_4_6.png, and what `maximise_classes` writes.
      classes: class indices, a column each.
      steps, size, command: as of `maximisation.maximise_classes`.
    """
    out = pathlib.Path(out)
    rows = {}
    for form in ("plain", "robust"):
        folder = out / f"activation_max_{form}"
        maximisation.maximise_classes(
            run,
            folder,
            [str(label) for label in classes],
            form,
            size=size,
            steps=steps,
            command=command,
        )
        pictures = dict(maximisation.read_pictures(folder))
        rows[form] = [pictures[label] for label in classes]
    titles = [run.class_names[label] for label in classes]
    figures.write_rows(out / "figure_4_6.png", rows, titles)


def draw(
    run: experiment.Run,
    out: str | os.PathLike,
    classes: Sequence[int] = PAPER_CLASSES,
    **options,
) -> None:
    """Writes figure_4_5.png and figure_4_6.png.

    Args:
      run: of `experiment.load_run`.
      out: the folder.
      classes: class indices, a column each.
      **options: of `activation_figure`.
    """
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    attribution_figure(run, out / "figure_4_5.png", classes)
    activation_figure(run, out, classes, **options)
