"""Open a Matplotlib figure and save it as a PNG.

    with png("curves.png", columns=2, size=(9, 4)) as axes:
        axes[0, 0].plot(values)

Class names and titles come from users. Matplotlib therefore does not parse text between
two dollar signs as mathematics. Functions that draw such text pass it through
`text.printable` first. Characters that the font lacks come from an installed font that
has them.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from seeflower_jax import records

# Fonts of Chinese, Japanese and Korean on Linux, Windows and macOS.
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Droid Sans Fallback"),
    *("WenQuanYi Zen Hei", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS"),
)


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
    families = _families()
    style: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}
    style["font.family"] = families
    with matplotlib.rc_context(style), records.replacing(path) as partial:
        # Without pyplot, the figure is freed when the block ends.
        figure = Figure(figsize=size)
        yield figure.subplots(rows, columns, squeeze=False, sharey=share_y)
        with warnings.catch_warnings():
            # Matplotlib warns twice of each character. One line names all of them.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.tight_layout()
            figure.savefig(
                partial, format="png", dpi=dpi, bbox_inches="tight" if fit else None
            )
        if missing := _missing(figure, families):
            logging.warning(
                "%s: no font has %s, drawn as boxes; install a font such as "
                "Noto Sans CJK",
                *(path, missing),
            )


def _families() -> list[str]:
    """Return the font families of the user, and then installed fonts to fill gaps."""
    installed = set(font_manager.get_font_names())
    fallbacks = [name for name in _FALLBACKS if name in installed]
    return [*matplotlib.rcParams["font.family"], *fallbacks]


def _missing(figure: Figure, families: list[str]) -> str:
    """Return the characters of a figure that no font of the families has."""
    fonts = (font_manager.FontProperties(family=[family]) for family in families)
    paths = map(font_manager.findfont, fonts)
    codes = set().union(*(font_manager.get_font(p).get_charmap() for p in paths))
    drawn = {c for label in figure.findobj(Text) for c in label.get_text()}
    return "".join(sorted(c for c in drawn if ord(c) not in codes and c != "\n"))
