"""Draw Figures 4.5 and 4.6 of the paper for any run.

    draw(load_run("runs/inception_seed0"), "figures")

The class names under the paper's Figure 4.6 are probably not the names of its images.
The paper's code sorted the numbers of the class folders as strings, but the names by
number. In this project, a class always is its index in the official order.
"""

import os
import pathlib
from collections.abc import Sequence

from seeflower_jax.experiment import images as run_images
from seeflower_jax.explain import maximise
from seeflower_jax.figures import maps
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.run import Run

PAPER_CLASSES = (5, 7, 33, 100, 73)  # the classes of Figure 4.6, counted from 0
# As in the paper: guided backpropagation from the softmax.
SALIENCY = "paper_saliency"
STEPS = 256  # of the maximisation


def first_of_classes(labels: Sequence[int | None], classes: Sequence[int]) -> list[int]:
    """Return the position of the first image of each class.

    Raises:
      ValueError: if a class has no image.
    """
    labels = list(labels)
    for label in classes:
        if label not in labels:
            raise ValueError(f"no image of class {label} in this split")
    return [labels.index(label) for label in classes]


def attribution_figure(
    run: Run, path: str | os.PathLike, classes: Sequence[int]
) -> None:
    """Draw Figure 4.5: rows of originals, saliency and Grad-CAM of the true class.

    The figure shows the first test image of each class, even if its prediction is
    wrong. The titles give the predictions.

    Args:
      run: run from `load_run`.
      path: path of the PNG.
      classes: class indices, one for each column.

    Raises:
      ValueError: if a class has no test image.
    """
    images = run_images.of_run(run).images("test")
    positions = first_of_classes(images.labels, classes)
    methods = [SALIENCY, "grad_cam"]
    explainer = Explainer(run.network, methods, batch_size=len(positions))
    pixels = [images.read(position) for position in positions]
    explained = explainer(positions, pixels, list(classes))
    names = run.network.class_names
    titles = [
        f"{names[label]}\n(predicted: {names[predicted]})"
        for label, predicted in zip(classes, explained.logits.argmax(-1), strict=True)
    ]
    rows = {
        "original": list(explained.images),
        "saliency": [maps.grey(values) for values in explained.maps[SALIENCY]],
        "Grad-CAM": [
            maps.overlay(image, values, signed=False)
            for image, values in zip(
                explained.images, explained.maps["grad_cam"], strict=True
            )
        ],
    }
    maps.write_rows(pathlib.Path(path), rows, titles)


def activation_figure(
    run: Run,
    out: str | os.PathLike,
    classes: Sequence[int] = PAPER_CLASSES,
    steps: int = STEPS,
    size: int | None = None,
    command: str = "",
) -> None:
    """Draw Figure 4.6: activation maximisation in the paper's form and the robust form.

    Args:
      run: run from `load_run`.
      out: the folder that gets figure_4_6.png and the files of `maximise_classes`.
      classes: class indices, one for each column.
      steps, size, command: as in `maximise.maximise_classes`.
    """
    out = pathlib.Path(out)
    # A class may be named "5", so classes are given by name.
    names = [run.network.class_names[label] for label in classes]
    rows = {}
    for form in ("plain", "robust"):
        folder = out / f"activation_max_{form}"
        maximise.maximise_classes(
            run,
            folder,
            names,
            form,
            size=size,
            steps=steps,
            command=command,
        )
        images = dict(maximise.read_images(folder))
        rows[form] = [images[label] for label in classes]
    maps.write_rows(out / "figure_4_6.png", rows, names)


def draw(
    run: Run,
    out: str | os.PathLike,
    classes: Sequence[int] = PAPER_CLASSES,
    steps: int = STEPS,
    size: int | None = None,
    command: str = "",
) -> None:
    """Write figure_4_5.png and figure_4_6.png.

    Args:
      run: run from `load_run`.
      out: the folder.
      classes: class indices, one for each column.
      steps, size, command: as in `maximise.maximise_classes`.
    """
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    attribution_figure(run, out / "figure_4_5.png", classes)
    activation_figure(run, out, classes, steps, size, command)
