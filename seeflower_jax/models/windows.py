"""Windows that slide over images, for convolution and pooling on a CPU.

windows = Windows((15, 15), size=(3, 3), strides=(2, 2))
total = sum(windows.gather(images))   # sums over all 3 x 3 windows
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "n h w c"]
Kernel = Float[Array, "kernel_h kernel_w c features"]
Outputs = Float[Array, "n out_h out_w features"]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right))


@dataclasses.dataclass(frozen=True)
class Windows:
    """The positions of a window on an image. It is hashable, so primitives can hold it.

    Attributes:
      image_size: (height, width) of the images.
      size: (height, width) of the window.
      strides: (vertical, horizontal) steps between neighbouring windows.
      padding: zeros around the image, ((top, bottom), (left, right)).
    """

    image_size: Pair
    size: Pair
    strides: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))

    @property
    def padded_size(self) -> Pair:
        """The (height, width) of the padded images."""
        height, width = self.image_size
        (top, bottom), (left, right) = self.padding
        return height + top + bottom, width + left + right

    @property
    def output_size(self) -> Pair:
        """The number of windows along (height, width)."""
        height, width = (
            (padded - size) // stride + 1
            for padded, size, stride in zip(
                self.padded_size, self.size, self.strides, strict=True
            )
        )
        return height, width

    def gather(self, images: Images) -> Iterator[Float[Array, "n out_h out_w c"]]:
        """Yield the pixels at each position in the window, row by row."""
        (rows, columns), (down, right) = self.output_size, self.strides
        padded = jnp.pad(images, ((0, 0), *self.padding, (0, 0)))
        for i in range(self.size[0]):
            for j in range(self.size[1]):
                yield padded[
                    :,
                    i : i + (rows - 1) * down + 1 : down,
                    j : j + (columns - 1) * right + 1 : right,
                ]

    def scatter(self, taps: Iterable[Float[Array, "n out_h out_w c"]]) -> Images:
        """Add each tap to the pixels that `gather` reads; the transpose of `gather`."""
        padded = []
        for place, tap in enumerate(taps):
            config = [(0, 0, 0)]
            for start, side, count, stride in zip(
                divmod(place, self.size[1]),
                self.padded_size,
                self.output_size,
                self.strides,
                strict=True,
            ):
                end = side - start - (count - 1) * stride - 1
                config.append((start, end, stride - 1))
            zero = jnp.zeros((), tap.dtype)
            padded.append(lax.pad(tap, zero, [*config, (0, 0, 0)]))
        total = functools.reduce(jnp.add, padded)
        (top, bottom), (left, right) = self.padding
        height, width = self.padded_size
        return total[:, top : height - bottom, left : width - right]
