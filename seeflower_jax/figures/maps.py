"""Attribution maps as pictures.

    shown = overlay(image, values, signed=False)           # uint8 [H, W, 3]
    write_contact_sheet(path, images, maps, titles, signed=False)

Maps are normalised here, for display alone: each by its own 99.5th percentile.
"""

import pathlib
import textwrap

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def normalise(values: np.ndarray, signed: bool) -> np.ndarray:
    """Values of a map [H, W] in [0, 1]; of a signed one, 0.5 is zero."""
    values = np.asarray(values, np.float32)
    scale = np.percentile(np.abs(values), 99.5) or np.abs(values).max() or 1.0
    values = (values / scale).clip(-1, 1)
    return (values + 1) / 2 if signed else values.clip(0, 1)


def overlay(image: np.ndarray, values: np.ndarray, signed: bool) -> np.ndarray:
    """A map in colours over its picture in grey, uint8 [H, W, 3].

    Args:
      image: RGB [H, W, 3] in [0, 255].
      values: [H, W].
      signed: red for and blue against, or from nothing to yellow.
    """
    shown = normalise(values, signed)
    strength = np.abs(2 * shown - 1) if signed else shown
    colours = matplotlib.colormaps["seismic" if signed else "inferno"](shown)[..., :3]
    grey = np.asarray(image, np.float32).mean(-1, keepdims=True) / 255
    opacity = 0.25 + 0.65 * strength[..., None]
    mixed = (1 - opacity) * grey + opacity * colours
    return (mixed * 255).round().clip(0, 255).astype(np.uint8)


def draw_box(image: np.ndarray, box) -> np.ndarray:
    """A picture [H, W, 3] with a box (left, top, right, bottom in its pixels)."""
    shown = Image.fromarray(image)
    left, top, right, bottom = map(int, box)
    width = max(1, round(image.shape[0] / 150))
    ImageDraw.Draw(shown).rectangle(
        (left, top, right - 1, bottom - 1), outline="cyan", width=width
    )
    return np.asarray(shown)


def grey(values: np.ndarray) -> np.ndarray:
    """A map without sign, white where it is largest, uint8 [H, W, 3]."""
    shown = (normalise(values, signed=False) * 255).round().astype(np.uint8)
    return np.repeat(shown[..., None], 3, -1)


def write_rows(path: pathlib.Path, rows: dict[str, list], titles: list[str]) -> None:
    """Draws pictures [H, W, 3] in [0, 255] in named rows; titles stand above them."""
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(2.2 * len(titles), 2.2 * len(rows) + 0.4),
        squeeze=False,
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(np.asarray(image).round().astype(np.uint8))
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=11)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_contact_sheet(
    path: pathlib.Path, images, maps, titles, signed: bool, columns: int = 4
) -> None:
    """Draws pictures beside their overlays.

    Args:
      path: of the PNG.
      images: RGB [H, W, 3] in [0, 255], up to a few dozen.
      maps: [H, W] each.
      titles: a text for each.
      signed: whether maps have a sign.
      columns: pairs in a row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 2.5 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, values, title in zip(
        axes.flat, images, maps, titles, strict=False
    ):
        pair = [np.asarray(image).astype(np.uint8), overlay(image, values, signed)]
        axis.imshow(np.concatenate(pair, 1))
        axis.set_title(textwrap.fill(title, 44), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def write_sheet(path: pathlib.Path, images, titles, columns: int = 12) -> None:
    """Draws pictures [H, W, 3] in [0, 255] with their titles, `columns` in a row."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.5 * columns, 1.75 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(np.asarray(image).round().astype(np.uint8))
        axis.set_title(textwrap.fill(title, 18), fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_score_curves(path: pathlib.Path, curves: np.ndarray, titles) -> None:
    """Draws a score per step, [K, steps]; names the curves where there are few."""
    figure, axis = plt.subplots(figsize=(6, 4))
    for curve, title in zip(curves, titles, strict=True):
        axis.plot(curve, lw=0.8, label=title)
    if len(curves) <= 10:
        axis.legend(fontsize=8)
    axis.set_xlabel("step")
    axis.set_ylabel("score of the class (logit)")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_table(path: pathlib.Path, header: list[str], rows: list[list[str]]) -> None:
    """Draws a table of texts; the first column holds names."""
    figure, axis = plt.subplots(figsize=(1.3 * len(header) + 1, 0.4 * len(rows) + 0.8))
    axis.axis("off")
    table = axis.table(rows, colLabels=header, loc="center", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(range(len(header)))
    table.scale(1, 1.4)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
