"""Open a Matplotlib figure and save it as a PNG.

    with png("curves.png", columns=2, size=(9, 4)) as axes:
        axes[0, 0].plot(values)

Class names and titles come from users. Matplotlib therefore does not parse text between
two dollar signs as mathematics. Functions that draw such text pass it through
`text.printable` first.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from seeflower_jax import records


@contextlib.contextmanager
def png(
    path: str | os.PathLike,
    *,
    size: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    share_y: bool | Literal["row"] = False,
    dpi: int = 120,
    fit: bool = False,
) -> Iterator[np.ndarray]:
    """Open a figure, and write it as a PNG when the block ends without an error.

    Args:
      path: path of the PNG. `records.replacing` writes it completely or not at all.
      size: (width, height) in inches.
      rows, columns: number of rows and columns of axes.
      share_y: whether all axes, or the axes of each row, share the vertical scale.
      dpi: pixels per inch.
      fit: whether the size of the PNG follows its content, such as long titles.

    Yields:
      The axes, [rows, columns].
    """
    with (
        matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}),
        records.replacing(path) as partial,
    ):
        # Without pyplot, the figure is freed when the block ends.
        figure = Figure(figsize=size)
        yield figure.subplots(rows, columns, squeeze=False, sharey=share_y)
        figure.tight_layout()
        figure.savefig(
            partial, format="png", dpi=dpi, bbox_inches="tight" if fit else None
        )
