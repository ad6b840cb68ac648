"""Compute what a network sees of an image, on the device.

    view = View(size=224, crop=0.875, shortest_side=256)
    images = view(canvas, sizes)       # float32 [n, 224, 224, 3] in [0, 255]

Validation, evaluation, prediction, attribution, activation maximisation and exports all
use `View`. An image therefore has the same probability everywhere. A batch of images of
different sizes has two arrays. `canvas` is uint8 [n, H, W, 3], with each image in the
upper left corner. `sizes` is int32 [n, 2], the (height, width) of each image.

The resampling is linear, and antialiased if it shrinks the image, as in Pillow. Weights
are normalised over the pixels of the image, so the rest of the canvas has no effect.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from seeflower_jax.data import decode

MAX_SIDE = 2**14  # of a view in pixels; larger ones exceed any memory
ArrayLike = jax.Array | np.ndarray
Canvas = UInt8[ArrayLike, "n h w 3"] | Float[ArrayLike, "n h w 3"]
Sizes = Int[ArrayLike, "n 2"]


@dataclasses.dataclass(frozen=True)
class View:
    """The central part of an image, resampled to a square.

    Attributes:
      size: side of the square in pixels.
      shortest_side: shortest side of the decoded images in pixels.
      crop: share of the shortest side that the square covers.
      keep_aspect: False takes the share `crop` of each side and squashes it to a
        square.
    """

    size: int
    shortest_side: int
    crop: float = 1.0
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "shortest_side"):
            if not 1 <= getattr(self, name) <= MAX_SIDE:
                raise ValueError(
                    f"a view has {name} {getattr(self, name)}; expected 1 to "
                    f"{MAX_SIDE} pixels"
                )
        if not 0 < self.crop <= 1:
            raise ValueError(
                f"a view has crop {self.crop}; expected a share above 0, at most 1"
            )

    def to_dict(self) -> dict:
        """Return a JSON-serialisable form; `View(**view.to_dict())` restores it."""
        return dataclasses.asdict(self)

    def __call__(
        self, canvas: Canvas, sizes: Sizes, mirror: bool = False
    ) -> Float[Array, "n s s 3"]:
        """Return what the network sees of each image, with values in [0, 255].

        Args:
          canvas: images, each in the upper left corner.
          sizes: (height, width) of each image.
          mirror: whether to flip the images horizontally.
        """
        count = len(sizes)
        images = self.zoom(canvas, sizes, jnp.zeros((count, 2)), jnp.ones(count))
        return images[:, :, ::-1] if mirror else images

    def zoom(
        self,
        canvas: Canvas,
        sizes: Sizes,
        centers: Float[Array, "n 2"],
        halves: Float[Array, " n"],
    ) -> Float[Array, "n s s 3"]:
        """Return a square part of each view, resampled to the size of the view.

        Args:
          canvas, sizes: the images, as in `__call__`.
          centers: centre (y, x) of each part in the view, from -1 to 1.
          halves: half the side of each part; 1 is half the side of the view.
        """

        def one(image, size, center, half):
            whole = self._half_sides(size)
            return _resample(
                image, size, size / 2 + whole * center, whole * half, self.size
            )

        return jax.vmap(one)(canvas, sizes, centers, halves)

    def trim(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h v 3"]:
        """Crop the parts that the view does not show, equally on both sides.

        The cropped image has the same view. A smaller canvas makes the view faster: 2.9
        ms for an image of 320 pixels on a CPU, compared with 7.7 ms on a canvas for any
        image.
        """
        if not self.keep_aspect:
            return pixels
        limit = min(pixels.shape[:2]) + 2 * self._reach
        y, x = (max(0, (side - limit) // 2) for side in pixels.shape[:2])
        return pixels[y : pixels.shape[0] - y, x : pixels.shape[1] - x]

    @property
    def canvas_side(self) -> int:
        """Return the side of a square canvas that holds any image after `trim`."""
        if not self.keep_aspect:
            return decode.longest_side(self.shortest_side)
        return self.shortest_side + 2 * self._reach + 1

    @property
    def _reach(self) -> int:
        """Return the largest number of pixels that resampling reads beyond the view."""
        return math.ceil(max(self.shortest_side * self.crop / self.size, 1)) + 1

    def _half_sides(self, size: Int[Array, "2"]) -> Float[Array, "2"]:
        """Return half the (height, width) of the part that the view shows."""
        sides = jnp.full(2, jnp.min(size)) if self.keep_aspect else size
        return sides * self.crop / 2

    def box_in_original(
        self, box: Sequence[float], original_size: tuple[int, int]
    ) -> list[int]:
        """Convert a box in the view to pixels of the original image.

        Args:
          box: left, top, right, bottom in the view, as fractions of its side.
          original_size: (width, height) of the image before it was resized.

        Returns:
          Left, top, right, bottom in pixels; the image's upper left corner is at 0, 0.
        """
        limit = min(original_size) * decode.MAX_ASPECT
        sides = [
            self.crop * (min(original_size) if self.keep_aspect else min(side, limit))
            for side in original_size
        ]
        # The original, its resized centre and the view have the same centre.
        edges = [
            whole / 2 + (place - 0.5) * side
            for place, whole, side in zip(
                box, original_size * 2, sides * 2, strict=True
            )
        ]
        return [round(float(edge)) for edge in edges]


def _resample(
    image: Float[Array, "h w 3"] | UInt8[Array, "h w 3"],
    size: Int[Array, "2"],
    center: Float[Array, "2"],
    half: Float[Array, "2"],
    out_size: int,
) -> Float[Array, "s s 3"]:
    """Resample the part center +- half (y, x in pixels) of an image to a square."""
    height, width = image.shape[:2]
    scale = out_size / (2 * half)

    def resample(values):
        return jax.image.scale_and_translate(
            values,
            (out_size, out_size, values.shape[-1]),
            (0, 1),
            scale,
            (half - center) * scale,
            "linear",
        )

    inside = (jnp.arange(height)[:, None] < size[0]) & (jnp.arange(width) < size[1])
    mask = inside[..., None].astype(jnp.float32)
    # scale_and_translate normalises over the canvas. This factor cancels in the
    # quotient, which is normalised over the image.
    weights = resample(mask)
    return resample(image.astype(jnp.float32) * mask) / weights
