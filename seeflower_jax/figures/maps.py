"""Draw attribution maps, sheets of images, score curves and tables.

    pixels = overlay(image, values, signed=False)              # uint8 [h, w, 3]
    write_contact_sheet("sheet.png", images, maps, titles, signed=False)

Maps are normalised here, for display only: each map by its own 99.5th percentile.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image, ImageDraw

from seeflower_jax import records
from seeflower_jax.figures import canvas, png, text

# RGB in [0, 255], of integers or floats.
Pixels = Num[np.ndarray, "h w 3"]
Map = Float[np.ndarray, "h w"]


def normalise(values: Map, signed: bool) -> Map:
    """Scale a map to [0, 1]; zero becomes 0.5 if the map is signed."""
    values = np.asarray(values, np.float32)
    magnitudes = np.abs(values)
    # Every second row and column are enough, and take a quarter of the time.
    scale = np.percentile(magnitudes[::2, ::2], 99.5) or magnitudes.max() or 1.0
    values = (values / scale).clip(-1, 1)
    return (values + 1) / 2 if signed else values.clip(0, 1)


def overlay(image: Pixels, values: Map, signed: bool) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a map in colours over its image in grey.

    Args:
      image: the explained image.
      values: the map.
      signed: True draws positive values in red and negative values in blue; False
        draws values from black to yellow.
    """
    levels = np.minimum(normalise(values, signed) * 256, 255).astype(np.intp)
    image = np.asarray(image, np.float32)
    grey = image[..., 0] + image[..., 1] + image[..., 2]
    levels = 256 * levels + np.rint(grey / 3).clip(0, 255).astype(np.intp)
    return np.take(_mixtures(signed), levels, axis=0)


@functools.cache
def _mixtures(signed: bool) -> UInt8[np.ndarray, "65536 3"]:
    """Return the colours of an overlay by 256 * (level of the map) + (grey level).

    Thousands of overlays may be drawn. A table takes a third of the time of mixing the
    colours of each pixel, and differs by less than two of 255 levels.
    """
    values, grey = np.arange(256) / 255, np.arange(256)
    strength = np.abs(2 * values - 1) if signed else values
    opacity = (0.25 + 0.65 * strength)[:, None, None]
    colours = matplotlib.colormaps["seismic" if signed else "inferno"](np.arange(256))
    mixed = 255 * opacity * colours[:, None, :3] + (1 - opacity) * grey[:, None]
    return np.rint(mixed).astype(np.uint8).reshape(-1, 3)


def draw_box(
    image: UInt8[np.ndarray, "h w 3"], box: Sequence[float]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image with a box: left, top, right, bottom in pixels."""
    drawing = Image.fromarray(image)
    left, top, right, bottom = map(int, box)
    width = max(1, round(image.shape[0] / 150))
    ImageDraw.Draw(drawing).rectangle(
        (left, top, right - 1, bottom - 1), outline="cyan", width=width
    )
    return np.asarray(drawing)


def grey(values: Map) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a map without sign, white where it is largest."""
    brightness = (normalise(values, signed=False) * 255).round().astype(np.uint8)
    return np.repeat(brightness[..., None], 3, -1)


def write_rows(
    path: str | os.PathLike,
    rows: Mapping[str, Sequence[Pixels]],
    titles: Sequence[str],
) -> None:
    """Draw images in named rows, with titles above the first row.

    Names and titles may have several lines. Long lines are wrapped.
    """
    count, columns = len(rows), len(titles)
    size = 2.2 * columns, 2.2 * count + 0.4
    with canvas.png(
        path, rows=count, columns=columns, size=size, dpi=130, fit=True
    ) as axes:
        for row, (name, images) in zip(axes, rows.items(), strict=True):
            for axis, image in zip(row, images, strict=True):
                axis.imshow(_to_uint8(image))
                axis.set_xticks([])
                axis.set_yticks([])
            row[0].set_ylabel(text.wrapped(name, 20), fontsize=11)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(text.wrapped(title, 24), fontsize=9)


def write_contact_sheet(
    path: str | os.PathLike,
    images: Sequence[Pixels],
    maps: Sequence[Map],
    titles: Sequence[str],
    signed: bool,
    columns: int = 4,
) -> None:
    """Draw each image next to the overlay of its map.

    Args:
      path: path of the PNG.
      images: up to a few dozen images.
      maps: one map per image.
      titles: one title per image, of any number of lines.
      signed: see `overlay`.
      columns: number of pairs in a row.
    """
    pairs = [
        np.concatenate([_to_uint8(image), overlay(image, values, signed)], 1)
        for image, values in zip(images, maps, strict=True)
    ]
    titles = [text.wrapped(text.printable(title), 44) for title in titles]
    _write_grid(path, pairs, titles, columns, (4.2, 2.5), 8, dpi=100, fit=True)


def write_sheet(
    path: str | os.PathLike,
    images: Sequence[Pixels],
    titles: Sequence[str],
    columns: int = 12,
) -> None:
    """Draw images with their titles, `columns` in a row."""
    titles = [text.wrapped(text.printable(title), 18) for title in titles]
    _write_grid(path, images, titles, columns, (1.5, 1.75), 7)


def _write_grid(
    path: str | os.PathLike,
    images: Sequence[Pixels],
    titles: Sequence[str],
    columns: int,
    cell_size: tuple[float, float],
    font_size: float,
    **options: Any,
) -> None:
    """Draw images with titles in a grid of cells of (width, height) inches.

    The function passes the options to `canvas.png`.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = cell_size[0] * columns, cell_size[1] * rows
    with canvas.png(path, rows=rows, columns=columns, size=size, **options) as axes:
        for axis in axes.flat:
            axis.axis("off")
        for axis, image, title in zip(axes.flat, images, titles, strict=False):
            axis.imshow(_to_uint8(image))
            axis.set_title(title, fontsize=font_size)


def write_score_curves(
    path: str | os.PathLike,
    curves: Float[np.ndarray, "k steps"],
    titles: Sequence[str],
) -> None:
    """Draw a class score over the steps; up to ten curves have a legend."""
    names = [text.wrapped(text.printable(title), 44) for title in titles]
    names = names if len(curves) <= 10 else []
    with canvas.png(path, size=(6, 4), fit=True) as axes:
        axis = axes[0, 0]
        lines = axis.plot(np.transpose(curves), lw=0.8)
        if names:
            beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}
            numbers = map(str, range(len(lines)))
            legend = axis.legend(lines, numbers, fontsize=8, borderaxespad=0, **beside)
            # Matplotlib leaves out labels that start with an underscore.
            for label, name in zip(legend.get_texts(), names, strict=True):
                label.set_text(name)
        axis.set_xlabel("step")
        axis.set_ylabel("score of the class (logit)")
        axis.grid(alpha=0.3)


def write_table(
    path: str | os.PathLike, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Draw a table of texts; the first column holds names."""
    cells = [[text.printable(cell) for cell in row] for row in (header, *rows)]
    longest = max(len(row[0]) for row in cells)
    width = 1.3 * len(header) + 1 + 0.09 * max(0, longest - 14)
    size = width, 0.4 * len(rows) + 0.8
    with canvas.png(path, size=size, dpi=130, fit=True) as axes:
        axis = axes[0, 0]
        axis.axis("off")
        table = axis.table(cells[1:], colLabels=cells[0], loc="center", cellLoc="right")
        table.auto_set_font_size(False)
        table.set_fontsize(9)
        table.auto_set_column_width(range(len(header)))
        table.scale(1, 1.4)


def _to_uint8(image: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(image).round().astype(np.uint8)


def write_png(path: str | os.PathLike, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write an image as a PNG, completely or not at all.

    Raises:
      FullDiskError: if the disk is full.
      OSError: if the file cannot be written; the message names it.
    """
    try:
        with records.replacing(path) as partial:
            partial.write_bytes(png.encode(pixels))
    except records.FullDiskError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {os.fspath(path)}: {reason}") from error
