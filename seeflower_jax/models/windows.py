"""Windows that slide over images, for convolution and pooling on a CPU.

windows = Windows((15, 15), size=(3, 3), strides=(2, 2))
total = sum(windows.gather(images))   # sums over all 3 x 3 windows
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "n h w c"]
Kernel = Float[Array, "kernel_h kernel_w c features"]
Outputs = Float[Array, "n out_h out_w features"]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def image_size(images: Images) -> Pair:
    """Return (height, width) of images, which windows need as numbers.

    Raises:
      ValueError: if an export leaves the height or the width open.
    """
    _, height, width, _ = images.shape
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ValueError(
            f"images of {height} x {width} pixels do not have a fixed size; expected "
            "numbers, because convolution and pooling have other forms for other "
            "sizes. Only the number of images may be left open: export the function "
            "once for each size"
        )
    return height, width


@dataclasses.dataclass(frozen=True)
class Windows:
    """The positions of a window on an image. It is hashable, so primitives can hold it.

    Attributes:
      image_size: (height, width) of the images.
      size: (height, width) of the window.
      strides: (vertical, horizontal) steps between neighbouring windows.
      padding: zeros around the image, ((top, bottom), (left, right)). Where it is
        negative, pixels are left out; only `gather` takes such windows.
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

    def part(self, rows: slice, columns: slice) -> "Windows":
        """Return windows at the same places with some of the positions only."""
        (kh, kw), ((top, bottom), (left, right)) = self.size, self.padding
        return dataclasses.replace(
            self,
            size=(rows.stop - rows.start, columns.stop - columns.start),
            padding=(
                (top - rows.start, bottom - (kh - rows.stop)),
                (left - columns.start, right - (kw - columns.stop)),
            ),
        )

    def gather(self, images: Images) -> Iterator[Float[Array, "n out_h out_w c"]]:
        """Yield the pixels at each position in the window, row by row."""
        (rows, columns), (down, right) = self.output_size, self.strides
        pads = (0, 0, 0), *((*side, 0) for side in self.padding), (0, 0, 0)
        padded = lax.pad(images, jnp.zeros((), images.dtype), pads)
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
        return self._crop(functools.reduce(jnp.add, padded))

    def frame(self, outputs: Outputs) -> Float[Array, "n rows columns features"]:
        """Add windows of zeros, so that all pixels lie in equally many windows."""
        pads = [
            (before, strides - count)
            for before, strides, count in zip(
                *self._frame, self.output_size, strict=True
            )
        ]
        return jnp.pad(outputs, ((0, 0), *pads, (0, 0)))

    def scatter_framed(
        self, taps: Iterable[Float[Array, "n rows columns c"]]
    ) -> Images:
        """Return `scatter` of taps that `frame` has framed, in a faster way.

        The pixels at equal places between the strides have equal positions in their
        windows, so their sums are sums of slices. `scatter` pads the taps instead, with
        zeros between their values. On a CPU, that is 5 times as slow if XLA computes
        the taps in the same loop.
        """
        ((top, left), (rows, columns)), (down, right) = self._frame, self.strides
        sums: dict[Pair, Array] = {}
        for place, tap in enumerate(taps):
            i, j = divmod(place, self.size[1])
            start, begin = top - i // down, left - j // right
            part = tap[:, start : start + rows, begin : begin + columns]
            key = i % down, j % right
            sums[key] = sums[key] + part if key in sums else part
        zeros = jnp.zeros_like(sums[0, 0])  # of strides larger than the window
        lines = [
            _alternate([sums.get((i, j), zeros) for j in range(right)], 2)
            for i in range(down)
        ]
        return self._crop(_alternate(lines, 1))

    @property
    def _frame(self) -> tuple[Pair, Pair]:
        """The windows that `frame` adds before, and the strides that cover an image."""
        height, width = self.padded_size
        (kh, kw), (down, right) = self.size, self.strides
        before = (kh - 1) // down, (kw - 1) // right
        return before, (-(-height // down), -(-width // right))

    def _crop(self, padded: Images) -> Images:
        """Return images without their padding, and without what lies beyond it."""
        (top, _), (left, _) = self.padding
        height, width = self.image_size
        return padded[:, top : top + height, left : left + width]


def _alternate(arrays: Sequence[Array], axis: int) -> Array:
    """Let the slices of arrays along an axis take turns."""
    stacked = jnp.stack(arrays, axis + 1)
    shape = list(arrays[0].shape)
    shape[axis] *= len(arrays)
    return stacked.reshape(shape)
