"""Picture files that belong to no data set.

paths = find("holiday/")                # or "holiday/*.jpg", or "list.txt"
pixels = read(paths[0], shortest_side=320)   # uint8 [h, w, 3]
"""

import glob
import os
import pathlib

import numpy as np
from PIL import Image

from seeflower_jax.data import cache

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class UnreadablePicture(ValueError):
    """A file is no picture, or an incomplete one."""


def find(where: str | os.PathLike) -> list[pathlib.Path]:
    """The picture files of a folder and those below it, of a pattern or of a list.

    Args:
      where: a folder, a picture, a pattern with `*`, `?` or `**`, or a .txt file with a
        path a line, relative to the file.

    Returns:
      Paths in order of their names; those of a list in its order.

    Raises:
      FileNotFoundError: if there is no such thing, or no picture in it.
    """
    path = pathlib.Path(where).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*"))
        found = [file for file in files if file.suffix.lower() in SUFFIXES]
    elif path.suffix.lower() == ".txt" and path.is_file():
        lines = (line.strip() for line in path.read_text().splitlines())
        found = [path.parent / line for line in lines if line]
    elif path.is_file():
        found = [path]
    else:
        matches = sorted(glob.glob(str(path), recursive=True))
        found = [pathlib.Path(match) for match in matches if os.path.isfile(match)]
    if not found:
        raise FileNotFoundError(
            f"no picture found in {where}; expected a folder, a pattern or a .txt list "
            f"of files that end in {', '.join(SUFFIXES)}"
        )
    return found


def longest_side(shortest_side: int) -> int:
    """An upper bound for the longer side of what `read` gives."""
    return round(shortest_side * cache.MAX_ASPECT) + 1


def read(path: str | os.PathLike, shortest_side: int) -> np.ndarray:
    """Decodes a picture as the data sets' are: RGB, upright, resized, uint8 [h, w, 3].

    Raises:
      UnreadablePicture: names the file and the reason.
    """
    try:
        image = cache.decode(pathlib.Path(path).read_bytes())
        return np.asarray(cache.resize(image, shortest_side))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadablePicture(f"{path}: {error}") from error
