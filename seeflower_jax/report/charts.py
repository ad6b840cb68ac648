"""Lay out charts for the templates, which draw them as SVG.

    for chart in curves(log):      # lines of metrics.jsonl
        chart.lines, chart.x_ticks, chart.y_ticks

Coordinates follow SVG, so y grows downwards.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import ticker

from seeflower_jax.evaluation.calibration import Reliability

# (place, text) of each tick of an axis.
Ticks = list[tuple[float, str]]
# A line of `metrics.jsonl`: stage, epoch, metrics of 'train' and 'validation'.
Epoch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Frame:
    """The size of a drawing, and the rectangle that its axes enclose."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float

    def x(self, share: float) -> float:
        """Return x for a share of the horizontal axis, from the left."""
        return round(self.left + share * (self.right - self.left), 2)

    def y(self, share: float) -> float:
        """Return y for a share of the vertical axis, from the bottom."""
        return round(self.bottom - share * (self.bottom - self.top), 2)


CURVES = Frame(360, 216, left=50, right=346, top=12, bottom=178)
RELIABILITY = Frame(360, 330, left=44, right=340, top=12, bottom=282)


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
      split: 'train' or 'validation'.
      points: (x, y) of each epoch.
      marked: whether each point is marked.
    """

    split: str
    points: list[tuple[float, float]]
    marked: bool


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves with their axes.

    Attributes:
      title: title of the chart.
      summary: the last values, in words.
      lines: the curves.
      x_ticks, y_ticks: ticks of the axes.
    """

    title: str
    summary: str
    lines: list[Line]
    x_ticks: Ticks
    y_ticks: Ticks


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """The quantity that a row of charts shows.

    Attributes:
      name: name in titles.
      keys: path to the value in an epoch, by split.
      shared: whether all stages share the vertical axis.
      is_share: whether the axis is from 0 to 100 %.
    """

    name: str
    keys: Mapping[str, tuple[str, ...]]
    shared: bool = True
    is_share: bool = False

    def points(self, epochs: Sequence[Epoch], split: str) -> list[tuple[int, float]]:
        """Return (epoch, value) where the value was logged and is finite."""
        points = []
        for epoch in epochs:
            value: Any = epoch
            for key in self.keys.get(split, ("absent",)):
                value = value.get(key, {})
            if isinstance(value, int | float) and math.isfinite(value):
                points.append((epoch["epoch"], value))
        return points


def _of_both(metric: str) -> dict[str, tuple[str, ...]]:
    return {split: (split, metric) for split in _SPLITS}


_SPLITS = ("train", "validation")
_METRICS = (
    _Quantity("accuracy", _of_both("top1"), is_share=True),
    _Quantity("loss", _of_both("loss")),
)
_OPTIMISATION = (
    _Quantity("learning rate", {"train": ("learning_rate",)}, shared=False),
    _Quantity("gradient norm", {"train": ("train", "gradient_norm")}, shared=False),
)


def curves(log: Sequence[Epoch]) -> list[Chart]:
    """Lay out the accuracy of every stage, then the loss of every stage."""
    return [chart for quantity in _METRICS for chart in _row(log, quantity)]


def optimisation_curves(log: Sequence[Epoch]) -> list[Chart]:
    """Lay out learning rate and gradient norm of every stage, if they were logged."""
    return [chart for quantity in _OPTIMISATION for chart in _row(log, quantity)]


def _row(log: Sequence[Epoch], quantity: _Quantity) -> list[Chart]:
    """Lay out a quantity, one chart per stage."""
    epochs_by_stage: dict[str, list[Epoch]] = {}
    for epoch in log:
        epochs_by_stage.setdefault(epoch["stage"], []).append(epoch)
    charts = []
    for stage, epochs in epochs_by_stage.items():
        points_by_split = {s: quantity.points(epochs, s) for s in _SPLITS}
        if any(points_by_split.values()):
            y = _vertical_axis(quantity, log if quantity.shared else epochs)
            charts.append(_chart(quantity, stage, points_by_split, y))
    return charts


def _vertical_axis(
    quantity: _Quantity, epochs: Sequence[Epoch]
) -> Float[np.ndarray, " ticks"]:
    """Return the values at the ticks, the last one at the top."""
    if quantity.is_share:
        return _ticks(1, 5)
    values = [v for split in _SPLITS for _, v in quantity.points(epochs, split)]
    return _ticks(max(values) or 1.0, 5)


def _chart(
    quantity: _Quantity,
    stage: str,
    points_by_split: Mapping[str, Sequence[tuple[int, float]]],
    y: Float[np.ndarray, " ticks"],
) -> Chart:
    last = max(2, *(e for points in points_by_split.values() for e, _ in points))
    lines, last_values = [], []
    for split, points in points_by_split.items():
        if points:
            places = [(CURVES.x(e / last), CURVES.y(v / y[-1])) for e, v in points]
            lines.append(Line(split, places, split == "validation"))
            last_values.append(f"{split} {points[-1][1]:.3g}")
    x = [v for v in _ticks(last, 5, integer=True) if v <= last]
    return Chart(
        title=f"{stage}: {quantity.name}",
        summary=f"{quantity.name} at the end of {stage}: {', '.join(last_values)}",
        lines=lines,
        x_ticks=[(CURVES.x(v / last), f"{v:g}") for v in x],
        y_ticks=[
            (CURVES.y(v / y[-1]), f"{v:.0%}" if quantity.is_share else _short_number(v))
            for v in y
        ],
    )


def _ticks(
    high: float, count: int, integer: bool = False
) -> Float[np.ndarray, " ticks"]:
    """Return round values from 0 to above `high`."""
    locator = ticker.MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10])
    return np.asarray(locator.tick_values(0, high))


def _short_number(value: float) -> str:
    """Format a tick, which has at most three digits, in at most seven characters.

    Examples are 0.5, 0.0125 and 2.5e-4.
    """
    text = f"{value:g}"
    if len(text) <= 6 and "e" not in text:
        return text
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').removesuffix('.')}e{int(exponent)}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a confusion matrix that is not empty.

    Attributes:
      x, y: place of the upper left corner.
      correct: whether the cell lies on the diagonal.
      strength: opacity of the colour, in [0, 1].
      title: the count in words.
    """

    x: float
    y: float
    correct: bool
    strength: float
    title: str


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
      frame: frame of the drawing.
      size: side of a cell.
      cells: the cells that are not empty.
      x_ticks, y_ticks: ticks of the classes.
      named: whether ticks are class names rather than class indices.
    """

    frame: Frame
    size: float
    cells: list[Cell]
    x_ticks: Ticks
    y_ticks: Ticks
    named: bool


def matrix(confusion: Int[np.ndarray, "c c"], class_names: Sequence[str]) -> Matrix:
    """Lay out a confusion matrix, true class by row."""
    count = len(class_names)
    named = count <= 24
    frame = Frame(660, 660, left=46, right=646, top=10, bottom=610)
    if named:
        frame = Frame(760, 760, left=150, right=750, top=10, bottom=610)
    step = 1 if named else int(_ticks(count, 6, integer=True)[1])
    classes = range(0, count, step)
    labels = [_short_name(class_names[i]) if named else str(i) for i in classes]
    middles = [(i + 0.5) / count for i in classes]
    return Matrix(
        frame,
        round((frame.right - frame.left) / count, 3),
        [
            _cell(confusion, class_names, frame, row, column)
            for row, column in np.argwhere(confusion)
        ],
        [(frame.x(m), label) for m, label in zip(middles, labels, strict=True)],
        [(frame.y(1 - m), label) for m, label in zip(middles, labels, strict=True)],
        named,
    )


def _cell(
    confusion: Int[np.ndarray, "c c"],
    class_names: Sequence[str],
    frame: Frame,
    row: int,
    column: int,
) -> Cell:
    times, total = confusion[row, column], confusion[row].sum()
    outcome = f"predicted as {class_names[column]}"
    if row == column:
        outcome = "correct"
    return Cell(
        frame.x(column / len(class_names)),
        frame.y(1 - row / len(class_names)),
        correct=bool(row == column),
        # The square root makes single mistakes visible next to a full diagonal.
        strength=round(max(float(np.sqrt(times / total)), 0.4), 2),
        title=f"{class_names[row]}: {times} of {total} {outcome}",
    )


def _short_name(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


@dataclasses.dataclass(frozen=True)
class Bar:
    """The accuracy within one bin of confidence.

    Attributes:
      x, y: place of the upper left corner.
      width, height: size of the bar.
      share: share of all predictions that are in the bin.
      title: the values in words.
    """

    x: float
    y: float
    width: float
    height: float
    share: float
    title: str


def reliability_bars(reliability: Reliability) -> list[Bar]:
    """Lay out the bars of a reliability diagram in the frame `RELIABILITY`."""
    frame, bins, bars = RELIABILITY, len(reliability.counts), []
    for i in np.flatnonzero(reliability.counts):
        accuracy, count = reliability.accuracy[i], reliability.counts[i]
        left, top = frame.x(i / bins), frame.y(accuracy)
        bars.append(
            Bar(
                left,
                top,
                width=round(frame.x((i + 1) / bins) - left, 2),
                height=round(frame.bottom - top, 2),
                share=float(count / reliability.counts.sum()),
                title=(
                    f"confidence {reliability.confidence[i]:.1%}, accuracy "
                    f"{accuracy:.1%}, {count} images"
                ),
            )
        )
    return bars


def reliability_ticks() -> tuple[Ticks, Ticks]:
    """Return the ticks of both axes of a reliability diagram."""
    shares = np.linspace(0, 1, 6)
    return (
        [(RELIABILITY.x(v), f"{v:.0%}") for v in shares],
        [(RELIABILITY.y(v), f"{v:.0%}") for v in shares],
    )
