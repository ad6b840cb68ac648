"""Where the marks of a chart lie, for the templates that draw it as SVG.

    for chart in curves(records):      # of metrics.jsonl
        chart.lines, chart.x_ticks, chart.y_ticks

Coordinates are those of the drawing, whose y grows downwards.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib import ticker

from seeflower_jax.evaluation.calibration import Reliability

Ticks = list[tuple[float, str]]


@dataclasses.dataclass(frozen=True)
class Frame:
    """A drawing and the part of it that the axes enclose, in its own units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float

    def x(self, share: float) -> float:
        """The place of a share of the horizontal axis."""
        return round(self.left + share * (self.right - self.left), 2)

    def y(self, share: float) -> float:
        """The place of a share of the vertical axis, from below."""
        return round(self.bottom - share * (self.bottom - self.top), 2)


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: its name, its points as SVG has them, whether they are marked."""

    name: str
    points: list[tuple[float, float]]
    marked: bool


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves with their axes.

    Attributes:
      title: of the chart.
      summary: the last values, in words.
      lines: the curves.
      x_ticks, y_ticks: place and text of each.
    """

    title: str
    summary: str
    lines: list[Line]
    x_ticks: Ticks
    y_ticks: Ticks


CURVES = Frame(360, 216, left=40, right=346, top=12, bottom=178)
RELIABILITY = Frame(360, 330, left=44, right=340, top=12, bottom=282)
_QUANTITIES = (("top1", "accuracy"), ("loss", "loss"))


def _ticks(low: float, high: float, count: int, integer: bool = False) -> np.ndarray:
    """Round values from below `low` to above `high`."""
    locator = ticker.MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10])
    return locator.tick_values(low, high)


def curves(records: Sequence[dict]) -> list[Chart]:
    """Accuracy of every stage, then their loss; each row has one vertical axis.

    Args:
      records: the lines of `metrics.jsonl`.
    """
    stages = list(dict.fromkeys(record["stage"] for record in records))
    charts = []
    for key, quantity in _QUANTITIES:
        values = [r[s][key] for r in records for s in ("train", "validation") if s in r]
        y = _ticks(0, 1, 5) if key == "top1" else _ticks(0, max(values, default=1), 5)
        text = "{:.0%}" if key == "top1" else "{:g}"
        y_ticks = [(CURVES.y(v / y[-1]), text.format(v)) for v in y]
        for stage in stages:
            own = [record for record in records if record["stage"] == stage]
            last = max(own[-1]["epoch"], 2)
            at = {record["epoch"]: CURVES.x(record["epoch"] / last) for record in own}
            lines, summary = [], []
            for name in ("train", "validation"):
                found = [(r["epoch"], r[name][key]) for r in own if name in r]
                if found:
                    points = [(at[e], CURVES.y(v / y[-1])) for e, v in found]
                    lines.append(Line(name, points, name == "validation"))
                    summary.append(f"{name} {found[-1][1]:.3f}")
            x = [v for v in _ticks(0, last, 5, integer=True) if v <= last]
            x_ticks = [(CURVES.x(v / last), f"{v:g}") for v in x]
            words = f"{quantity} of stage {stage} at its end: {', '.join(summary)}"
            charts.append(Chart(f"{stage}: {quantity}", words, lines, x_ticks, y_ticks))
    return charts


@dataclasses.dataclass(frozen=True)
class Cell:
    """A pair of classes that occurs in a confusion matrix.

    Attributes:
      x, y: place of its corner.
      right: whether it lies on the diagonal.
      strength: in [0, 1], of its colour.
      title: what it says.
    """

    x: float
    y: float
    right: bool
    strength: float
    title: str


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A confusion matrix; `named` says whether its ticks are the classes' names."""

    frame: Frame
    size: float
    cells: list[Cell]
    x_ticks: Ticks
    y_ticks: Ticks
    named: bool


def matrix(confusion: np.ndarray, class_names: Sequence[str]) -> Matrix:
    """The cells of a confusion matrix [C, C] that are not empty, true class by row."""
    count = len(class_names)
    named = count <= 24
    frame = (
        Frame(760, 760, 150, 750, 10, 610)
        if named
        else Frame(660, 660, 46, 646, 10, 610)
    )
    size = (frame.right - frame.left) / count
    totals = confusion.sum(1)
    cells = []
    for row, column in np.argwhere(confusion):
        times, total = confusion[row, column], totals[row]
        title = (
            f"{class_names[row]}: {times} of {total} taken for {class_names[column]}"
        )
        if row == column:
            title = f"{class_names[row]}: {times} of {total} right"
        # The square root lets single mistakes be seen beside a full diagonal.
        strength = round(max(float(np.sqrt(times / total)), 0.4), 2)
        x, y = frame.x(column / count), frame.y(1 - row / count)
        cells.append(Cell(x, y, bool(row == column), strength, title))
    step = 1 if named else int(_ticks(0, count, 6, integer=True)[1])
    shown = range(0, count, step)
    labels = [_short(class_names[i]) if named else str(i) for i in shown]
    middle = [(i + 0.5) / count for i in shown]
    return Matrix(
        frame,
        round(size, 3),
        cells,
        [(frame.x(m), label) for m, label in zip(middle, labels, strict=True)],
        [(frame.y(1 - m), label) for m, label in zip(middle, labels, strict=True)],
        named,
    )


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


@dataclasses.dataclass(frozen=True)
class Bar:
    """Accuracy within one range of confidence; `share` is of all predictions."""

    x: float
    y: float
    width: float
    height: float
    share: float
    title: str


def reliability_bars(found: Reliability) -> list[Bar]:
    """The bars of a reliability diagram in the frame `RELIABILITY`."""
    frame, bins, bars = RELIABILITY, len(found.counts), []
    for i in np.flatnonzero(found.counts):
        top, left = frame.y(found.accuracy[i]), frame.x(i / bins)
        title = (
            f"confidence {found.confidence[i]:.1%}, accuracy {found.accuracy[i]:.1%}, "
            f"{found.counts[i]} pictures"
        )
        share = float(found.counts[i] / found.counts.sum())
        width, height = frame.x((i + 1) / bins) - left, frame.bottom - top
        bars.append(Bar(left, top, round(width, 2), round(height, 2), share, title))
    return bars


def reliability_ticks() -> tuple[Ticks, Ticks]:
    """Ticks of both axes of a reliability diagram."""
    shares = np.linspace(0, 1, 6)
    return (
        [(RELIABILITY.x(v), f"{v:.0%}") for v in shares],
        [(RELIABILITY.y(v), f"{v:.0%}") for v in shares],
    )
