"""The report of a run: one page that needs no other file and no network.

    page = render(Report(title, config, result, records, class_names, splits=[...]))

It draws what it is given; `seeflower_jax.reporting` collects that from a run directory.
Text and structure are in templates/.
"""

import base64
import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Iterator, Sequence

import jinja2
import numpy as np
from PIL import Image

from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.report import attribution, charts

_WORST, _PAIRS = 12, 10
_THIN_SPACE = "\u202f"


@dataclasses.dataclass(frozen=True)
class Split:
    """The logits [N, C] and labels int [N] of a split, by its name."""

    name: str
    logits: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Example:
    """A picture and what the network made of it.

    Attributes:
      picture: RGB [H, W, 3] in [0, 255].
      maps: {method: [H, W]}.
      label, predicted: class indices.
      probability: of the predicted class.
      other: a picture of the predicted class, or None.
    """

    picture: np.ndarray
    maps: dict[str, np.ndarray]
    label: int
    predicted: int
    probability: float
    other: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report draws.

    Attributes:
      title: of the run.
      config: as in `config.json`.
      result: as in `result.json`; empty for an unfinished run.
      records: the lines of `metrics.jsonl`.
      class_names: of the logits.
      splits: the evaluated ones; the last has the examples.
      temperature: that calibrates the logits.
      mistakes: wrong predictions, the most confident first.
      gallery: right predictions.
      maximised: pictures [H, W, 3] that classes' scores are largest for, by name.
    """

    title: str
    config: dict
    result: dict
    records: Sequence[dict]
    class_names: Sequence[str] = ()
    splits: Sequence[Split] = ()
    temperature: float = 1.0
    mistakes: Sequence[Example] = ()
    gallery: Sequence[Example] = ()
    maximised: Sequence[tuple[str, np.ndarray]] = ()


def render(report: Report) -> str:
    """The page as HTML that is well-formed XML too."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("seeflower_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": _duration,
        "json": functools.partial(json.dumps, ensure_ascii=False),
        "overlay": lambda e, method: attribution.overlay(
            e.picture, e.maps[method], False
        ),
        "path": lambda points: " ".join(f"{x:g},{y:g}" for x, y in points),
        "percent": _percent,
        "points": lambda error: f"{100 * error:.2f}",
        "thousands": "{:,}".format,
        "uri": _uri,
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        names=report.class_names,
        results=[_result(split, report.temperature) for split in report.splits],
        shown=_shown(report) if report.splits else None,
        curves=charts.curves(report.records),
        stages=list(dict.fromkeys(record["stage"] for record in report.records)),
        told=[r for r in report.records if "validation" in r] or report.records,
        frame=charts.CURVES,
        settings=list(_flat(report.config)),
    )


def _result(split: Split, temperature: float) -> dict:
    """The row of a split in the table of results."""
    return {
        "split": split.name,
        "metrics": metrics.evaluate(split.logits, split.labels),
        "errors": metrics.standard_errors(split.logits, split.labels),
        "correct": int((split.logits.argmax(-1) == split.labels).sum()),
        "calibration": calibration.summary(split.logits, split.labels, temperature),
    }


def _shown(report: Report) -> dict:
    """What is told of the split that has the examples."""
    split, names = report.splits[-1], report.class_names
    confusion = metrics.confusion_matrix(
        split.logits.argmax(-1), split.labels, len(names)
    )
    classes = [row for row in metrics.per_class(confusion, names) if row["count"]]
    classes.sort(key=lambda row: (row["recall"], -row["count"]))
    wrong = confusion - np.diag(np.diag(confusion))
    pairs = np.argwhere(wrong)
    pairs = pairs[np.argsort(-wrong[tuple(pairs.T)], kind="stable")][:_PAIRS]
    x_ticks, y_ticks = charts.reliability_ticks()
    return {
        "split": split.name,
        "matrix": charts.matrix(confusion, names),
        "classes": classes,
        "worst": [row for row in classes if row["recall"] < 1][:_WORST],
        "pairs": [
            (names[i], names[j], int(wrong[i, j]), int(confusion[i].sum()))
            for i, j in pairs
        ],
        "reliability": [
            (temperature, found.error, charts.reliability_bars(found))
            for temperature in dict.fromkeys((1.0, report.temperature))
            for found in [
                calibration.reliability(split.logits, split.labels, temperature)
            ]
        ],
        "frame": charts.RELIABILITY,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
    }


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
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


def _uri(picture: np.ndarray, side: int = 224) -> str:
    """A picture [H, W, 3] in [0, 255] as a data URI, its sides at most `side`."""
    image = Image.fromarray(np.asarray(picture).round().astype(np.uint8))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def write(path: pathlib.Path, report: Report) -> None:
    """Writes the page of a report."""
    path.write_text(render(report), encoding="utf-8")
