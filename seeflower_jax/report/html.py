"""Render the page of a run: one file that needs no other file and no network.

    text = render(Page(title, config, result, log, class_names, evaluations=[...]))

`seeflower_jax.report.collect` reads the content of a page from a run directory. Text
and structure are in templates/.
"""

import base64
import dataclasses
import functools
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float, Int, Num
from PIL import Image

from seeflower_jax import records
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.experiment.evaluate import Evaluation
from seeflower_jax.figures import maps, text
from seeflower_jax.records import files
from seeflower_jax.report import charts

_WORST, _PAIRS = 12, 10
_THIN_SPACE = "\u202f"

Pixels = Num[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """An image and its prediction.

    Attributes:
      image: RGB in [0, 255].
      maps: {attribution method: map}.
      label: index of the true class.
      predicted: index of the predicted class.
      probability: calibrated probability of the predicted class.
      training_image: an image of the predicted class, or None.
    """

    image: Pixels
    maps: Mapping[str, Float[np.ndarray, "h w"]]
    label: int
    predicted: int
    probability: float
    training_image: Pixels | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """The content of the page of a run.

    Attributes:
      title: title of the run.
      config: content of `config.json`.
      result: content of `result.json`; empty for an unfinished run.
      log: lines of `metrics.jsonl`.
      class_names: names of the classes, in the order of the logits.
      evaluations: evaluations of the splits, with the same temperature; the examples
        are from the last split.
      averages_views: whether the evaluated logits are averaged over test-time views. A
        prediction uses a single view.
      mistakes: wrong predictions, the most confident first.
      gallery: correct predictions.
      maximised: (class name, image) of activation maximisation.
    """

    title: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    class_names: Sequence[str] = ()
    evaluations: Sequence[Evaluation] = ()
    averages_views: bool = False
    mistakes: Sequence[Example] = ()
    gallery: Sequence[Example] = ()
    maximised: Sequence[tuple[str, Pixels]] = ()


def write(path: pathlib.Path, page: Page, sources: str) -> None:
    """Write a page and its marker under another name, and rename the file.

    If another process writes the page of the same run, the function waits for it.

    Args:
      path: path of the page.
      page: content of the page.
      sources: hash of the files that the page is made from, for `is_made_from`.

    Raises:
      FullDiskError: if the disk is full.
    """
    content = render(page) + _marker(sources)
    with files.exclusive(path.parent), records.replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def is_made_from(path: pathlib.Path, sources: str) -> bool:
    """Return whether a file is a complete page that `write` made from these sources."""
    marker = _marker(sources).encode()
    try:
        with open(path, "rb") as file:
            file.seek(-len(marker), os.SEEK_END)
            return file.read() == marker
    except OSError:  # The file is absent, or shorter than the marker.
        return False


def _marker(sources: str) -> str:
    """Return the last line of a page, which an incomplete page lacks."""
    return f"\n<!-- made from {sources} -->\n"


def render(page: Page) -> str:
    """Return the page as HTML that is also well-formed XML."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            class_names=page.class_names,
            split_rows=[_split_row(evaluation) for evaluation in page.evaluations],
            details=_details(page) if page.evaluations else None,
            curves=charts.curves(page.log),
            optimisation_curves=charts.optimisation_curves(page.log),
            curves_frame=charts.CURVES,
            stages=list(dict.fromkeys(epoch["stage"] for epoch in page.log)),
            epochs=[epoch for epoch in page.log if "validation" in epoch] or page.log,
            settings=list(_leaves(page.config)),
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("seeflower_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": _duration,
        "json": functools.partial(json.dumps, ensure_ascii=False),
        "number": "{:.3g}".format,
        "overlay": lambda example, method: maps.overlay(
            example.image, example.maps[method], signed=False
        ),
        "path": lambda points: " ".join(f"{x:g},{y:g}" for x, y in points),
        "percent": _percent,
        "points": lambda error: f"{100 * error:.2f}",
        "thousands": "{:,}".format,
        "uri": _uri,
    }
    return environment


def _printable(value: Any) -> Any:
    """Return a value to show, without characters that XML forbids."""
    is_markup = hasattr(value, "__html__")
    return value if is_markup or not isinstance(value, str) else text.printable(value)


def _split_row(evaluation: Evaluation) -> dict[str, Any]:
    """Return the row of a split in the table of results."""
    logits, labels = evaluation.logits, evaluation.labels
    return {
        "split": evaluation.split,
        "metrics": evaluation.metrics,
        "errors": metrics.standard_errors(logits, labels),
        "correct": int(metrics.are_correct(logits, labels).sum()),
    }


def _details(page: Page) -> dict[str, Any]:
    """Return classes and calibration of the split that has the examples."""
    evaluation, class_names = page.evaluations[-1], page.class_names
    logits, labels = evaluation.logits, evaluation.labels
    confusion = metrics.confusion_of_logits(logits, labels, len(class_names))
    rows = [row for row in metrics.per_class(confusion, class_names) if row["count"]]
    rows.sort(key=lambda row: (row["recall"], -row["count"]))
    temperatures = dict.fromkeys((1.0, evaluation.temperature))
    x_ticks, y_ticks = charts.reliability_ticks()
    return {
        "split": evaluation.split,
        "temperature": evaluation.temperature,
        "matrix": charts.matrix(confusion, class_names),
        "classes": rows,
        "worst": [row for row in rows if row["recall"] < 1][:_WORST],
        "pairs": _confused_pairs(confusion, class_names),
        "diagrams": [_diagram(evaluation, t) for t in temperatures],
        "enough_images": len(labels) >= calibration.MIN_IMAGES,
        "min_images": calibration.MIN_IMAGES,
        "reliability_frame": charts.RELIABILITY,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
    }


def _diagram(evaluation: Evaluation, temperature: float) -> dict[str, Any]:
    """Return the reliability diagram of an evaluated split at a temperature."""
    reliability = calibration.reliability(
        evaluation.logits, evaluation.labels, temperature
    )
    return {
        "temperature": temperature,
        "error": reliability.error,
        "bars": charts.reliability_bars(reliability),
    }


def _confused_pairs(
    confusion: Int[np.ndarray, "c c"], class_names: Sequence[str]
) -> list[tuple[str, str, int, int]]:
    """Return (true class, predicted class, mistakes, images) of frequent mistakes."""
    mistakes = confusion - np.diag(np.diag(confusion))
    pairs = np.argwhere(mistakes)
    order = np.argsort(-mistakes[tuple(pairs.T)], kind="stable")[:_PAIRS]
    return [
        (class_names[i], class_names[j], int(mistakes[i, j]), int(confusion[i].sum()))
        for i, j in pairs[order]
    ]


def _leaves(
    config: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, object]]:
    """Yield (key, value) of a config; an empty section is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}{_THIN_SPACE}%"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{_THIN_SPACE}h {minutes}{_THIN_SPACE}min"
    if minutes:
        return f"{minutes}{_THIN_SPACE}min {rest}{_THIN_SPACE}s"
    return f"{seconds:.1f}{_THIN_SPACE}s"


def _uri(image: Pixels, side: int = 224) -> str:
    """Return an image as a data URI, its sides at most `side` pixels."""
    thumbnail = Image.fromarray(np.asarray(image).round().astype(np.uint8))
    thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    thumbnail.save(file, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
