"""Central squares of images, which the frameworks compare.

view = view_of(224)
images = cut([decode.load_pixels(data, view.shortest_side)], view)
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from seeflower_jax.data import decode, loader
from seeflower_jax.data.view import View


def view_of(side: int) -> View:
    """Return the view of the central square of `side` pixels."""
    return View(side, round(side / 0.875), crop=0.875)


def cut(
    pixels: Sequence[UInt8[np.ndarray, "h w 3"]], view: View
) -> UInt8[np.ndarray, "n side side 3"]:
    """Return the central squares of images.

    Args:
      pixels: images with the shortest side of the view.
      view: of `view_of`.
    """
    length = decode.longest_side(view.shortest_side)
    batch = loader.to_canvas(pixels, length, length)
    return np.asarray(view(batch["canvas"], batch["sizes"])).round().astype(np.uint8)
