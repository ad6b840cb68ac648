"""Draw attribution maps over their images, as PNGs.

overlays = Overlays("maps/overlays", images.names)
overlays.write(3, "grad_cam", image, values, box)    # grad_cam/000003_rose.png
"""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from seeflower_jax.attribution import registry
from seeflower_jax.figures import maps as figures
from seeflower_jax.figures import text


class Overlays:
    """The overlays of a folder, by method, image position and image name.

    Args:
      folder: folder of the overlays; each method has a folder in it.
      names: names of the images, by position.
    """

    def __init__(self, folder: pathlib.Path, names: Sequence[str]):
        self._folder, self._names = folder, names
        self._folder_of = functools.cache(self._make_folder)

    def write(
        self,
        position: int,
        method: str,
        image: Float[np.ndarray, "s s 3"],
        values: Float[np.ndarray, "s s"],
        box: Sequence[int] | None,
    ) -> None:
        """Write the overlay of a map.

        Args:
          position: position of the image.
          method: method of the map.
          image: what the network sees.
          values: the map.
          box: left, top, right and bottom of a box to draw, in pixels of `image`.

        Raises:
          FullDiskError: if the disk is full.
          OSError: if the file cannot be written; the message names it.
        """
        stem = text.file_stem(pathlib.Path(self._names[position]).stem)
        path = self._folder_of(method) / f"{position:06d}_{stem}.png"
        pixels = figures.overlay(image, values, registry.METHODS[method].signed)
        if box is not None:
            pixels = figures.draw_box(pixels, box)
        figures.write_png(path, pixels)

    def _make_folder(self, method: str) -> pathlib.Path:
        folder = self._folder / method
        folder.mkdir(parents=True, exist_ok=True)
        return folder
