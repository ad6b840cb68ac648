"""Convolution by Winograd's minimal filtering.

    y = winograd.convolve(x, kernel, windows)           # windows of 3 x 3, 5 x 5, ...
    y = winograd.convolve_lines(x, kernel, windows)     # windows of 7 x 1, 1 x 3, ...
    kernel_gradient = winograd.kernel_gradient(x, g, windows)

A tile of 2 x 2 outputs depends on 4 x 4 pixels. A direct convolution with windows of
3 x 3 positions multiplies 36 times for them, F(2 x 2, 3 x 3) 16 times: it transforms
pixels and kernels, multiplies them place by place, and transforms the products to
outputs. F(4 x 4, 3 x 3), for much work, has a quarter of the multiplications. Along one
axis, F(2, 3) multiplies 4 times instead of 6. The gradient of the kernel has the same
products, with the transposed transforms. Larger windows are cut into parts of three
positions. The rounding error of F(2 x 2, 3 x 3) is twice that of the direct
convolution, that of F(4 x 4, 3 x 3) six times. A pixel that is not finite spoils all
outputs of its tiles.

Sources: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016),
section 4; Barabasz et al., "Error analysis and improving the accuracy of Winograd
convolution for deep neural networks" (2018), section 2, for the matrices.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.polynomial import polynomial

from seeflower_jax.models.windows import (
    Images,
    Kernel,
    Outputs,
    Padding,
    Pair,
    Windows,
)

_VALUES = 1 << 18  # numbers of channels times tiles that stay in the cache
# Multiplications of a batch, per position of the window, from which on F(4, 3) pays: it
# is up to 1.4 times as fast as F(2, 3), and compiles in up to three times the time.
_MANY = 1 << 28

# The values along one side of a tile. A transform is applied to both sides in turn.
Values = Sequence[Array] | Array
Transform = Float[np.ndarray, "new old"]


@dataclasses.dataclass(frozen=True)
class _Filtering:
    """F(m, 3) along one side: m outputs of three positions from m + 2 products.

    Attributes:
      outputs: m.
      pixels: transform of m + 2 pixels.
      kernel: transform of three positions of the kernel.
      products: transform of m + 2 products to the outputs.
    """

    outputs: int
    pixels: Transform
    kernel: Transform
    products: Transform

    @classmethod
    def at(cls, *points: float) -> "_Filtering":
        """Return F(m, 3) that evaluates polynomials at m + 1 points and at infinity.

        Pixels, kernel and outputs are the coefficients of polynomials. Two of these are
        multiplied point by point, the third is interpolated (the algorithm of Toom and
        Cook, transposed).
        """
        outputs, count = len(points) - 1, len(points) + 1
        pixels, kernel = np.zeros((count, count)), np.zeros((count, 3))
        products = np.zeros((outputs, count))
        for place, point in enumerate(points):
            others = [other for other in points if other != point]
            pixels[place, :-1] = polynomial.polyfromroots(others)
            scale = math.prod(point - other for other in others)
            kernel[place] = [point**power / scale for power in range(3)]
            products[:, place] = [point**power for power in range(outputs)]
        pixels[-1] = polynomial.polyfromroots(points)
        kernel[-1, -1] = products[-1, -1] = 1.0
        return cls(outputs, pixels, kernel, products)


_TWO = _Filtering.at(0.0, 1.0, -1.0)
# Of the points that were tried, these round least.
_FOUR = _Filtering.at(0.0, 0.75, -0.75, 1.5, -1.5)


def _along(transform: Transform, values: Values) -> list[Array]:
    """Transform the values along one side; a side of length 1 has no transform."""
    if len(values) == 1:
        return list(values)
    return [
        functools.reduce(
            operator.add,
            [
                value if factor == 1 else factor.item() * value
                for factor, value in zip(row, values, strict=True)
                if factor
            ],
        )
        for row in transform
    ]


def _known(count: int) -> int:
    """Return the number of images, or 1 for the symbolic number of an export."""
    return count if isinstance(count, int) else 1


def _images_at_a_time(
    count: int, windows: Windows, channels: Sequence[int], filtering: _Filtering
) -> int:
    tiles = math.prod(-(-side // filtering.outputs) for side in windows.output_size)
    return max(1, min(_VALUES // (tiles * sum(channels)), _known(count)))


def _tiles(
    x: Images, sides: Pair, step: int, transform: Transform, padding: Padding
) -> list[list[Float[Array, "n rows columns c"]]]:
    """Cut tiles out of images and transform them.

    Args:
      x: the images.
      sides: (height, width) of the tiles.
      step: pixels from a tile to the next one, along sides that are longer than 1.
      transform: transform of the values along one side.
      padding: zeros around the images.

    Returns:
      Transformed tiles, as arrays of the value at each place in a tile.
    """
    _, height, width, _ = x.shape
    strides = min(sides[0], step), min(sides[1], step)
    places = Windows((height, width), sides, strides, padding).gather(x)
    rows = [
        _along(transform, [next(places) for _ in range(sides[1])])
        for _ in range(sides[0])
    ]
    columns = [_along(transform, column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _pixel_tiles(
    x: Images, windows: Windows, filtering: _Filtering
) -> list[list[Array]]:
    step = filtering.outputs
    vertical, horizontal = (
        # The last row or column of tiles may have outputs that are not used.
        (before, after + -count % step) if size > 1 else (before, after)
        for size, count, (before, after) in zip(
            windows.size, windows.output_size, windows.padding, strict=True
        )
    )
    rows, columns = (step + 2 if size > 1 else 1 for size in windows.size)
    return _tiles(x, (rows, columns), step, filtering.pixels, (vertical, horizontal))


def _kernel_tiles(
    kernel: Kernel, filtering: _Filtering
) -> list[list[Float[Array, "_ _"]]]:
    rows = _along(filtering.kernel, kernel)
    return [_along(filtering.kernel, row) for row in rows]


def _product(
    x: Float[Array, "... c"], weights: Float[Array, "_ _"], swapped: bool
) -> Float[Array, "... features"]:
    """Return `x @ weights`, or `x @ weights.T` for swapped channels."""
    contracted = (x.ndim - 1,), (1 if swapped else 0,)
    return lax.dot_general(x, weights, (contracted, ((), ())))


def _filter(
    x: Images,
    kernels: Sequence[Sequence[Float[Array, "_ _"]]],
    windows: Windows,
    swapped: bool,
    filtering: _Filtering,
) -> Outputs:
    """Convolve with windows that have 1 or 3 positions along each side.

    Args:
      x: the images.
      kernels: the transformed kernel, from `_kernel_tiles`.
      windows: the windows, with strides (1, 1).
      swapped: see `convolve`.
      filtering: the filtering of sides that are longer than 1.
    """
    rows = []
    for tiles, weights in zip(
        _pixel_tiles(x, windows, filtering), kernels, strict=True
    ):
        products = [
            _product(a, b, swapped) for a, b in zip(tiles, weights, strict=True)
        ]
        rows.append(jnp.stack(_along(filtering.products, products), 3))
    y = jnp.stack(_along(filtering.products, rows), 2)
    _, down, count_down, right, count_right, features = y.shape
    y = y.reshape(-1, down * count_down, right * count_right, features)
    height, width = windows.output_size
    return y[:, :height, :width]


def _cut(
    x: Images, kernel: Kernel, windows: Windows, swapped: bool
) -> tuple[Images, Kernel, Windows]:
    """Return an equal convolution with windows of 1 or 3 positions along each side.

    Its channels are those of shifted copies of the images, side by side.
    """
    if max(windows.size) <= 3:
        return x, kernel, windows
    # A side of 5 positions becomes 6, a side of 7 positions 9; the further ones are 0.
    size = [-(-side // 3) * 3 if side > 1 else 1 for side in windows.size]
    further = [(0, new - old) for new, old in zip(size, windows.size, strict=True)]
    kernel = jnp.pad(kernel, (*further, (0, 0), (0, 0)))
    x = jnp.pad(x, ((0, 0), *windows.padding, (0, 0)))
    x = jnp.pad(x, ((0, 0), *further, (0, 0)))
    part_h, part_w = part = min(size[0], 3), min(size[1], 3)
    height, width = (
        count + side - 1 for count, side in zip(windows.output_size, part, strict=True)
    )
    places = list(itertools.product(range(0, size[0], 3), range(0, size[1], 3)))
    copies = [x[:, i : i + height, j : j + width] for i, j in places]
    kernels = [kernel[i : i + part_h, j : j + part_w] for i, j in places]
    parts = Windows((height, width), part)
    kernel = jnp.concatenate(kernels, 3 if swapped else 2)
    return jnp.concatenate(copies, -1), kernel, parts


def convolve(
    x: Images, kernel: Kernel, windows: Windows, swapped: bool = False
) -> Outputs:
    """Return the convolution, computed for few images at a time.

    Args:
      x: the images.
      kernel: the kernel.
      windows: windows of at least 3 x 3 positions, with strides (1, 1).
      swapped: True if the kernel has the shape [kh, kw, features, c]. To swap its axes
        before would take up to 3 times as long for 512 channels, because XLA would
        transform the kernel in an order that is slow.
    """
    x, kernel, windows = _cut(x, kernel, windows, swapped)
    count, channels = x.shape[0], kernel.shape[2:]
    work = math.prod((_known(count), *windows.output_size, *channels))
    filtering = _FOUR if work >= _MANY else _TWO
    kernels = _kernel_tiles(kernel, filtering)

    def convolve_image(image):
        return _filter(image[None], kernels, windows, swapped, filtering)[0]

    images = _images_at_a_time(count, windows, channels, filtering)
    return lax.map(convolve_image, x, batch_size=images if images > 1 else None)


def convolve_lines(
    x: Images, kernel: Kernel, windows: Windows, swapped: bool = False
) -> Outputs:
    """Return the convolution with windows of one row or one column.

    Args:
      x: the images.
      kernel: the kernel.
      windows: windows of 1 x k or k x 1 positions, k >= 3, with strides (1, 1).
      swapped: see `convolve`.
    """
    count = max(windows.size)
    axis = windows.size.index(count)
    if count % 3 != 1:
        x, kernel, windows = _cut(x, kernel, windows, swapped)
        return _filter(x, _kernel_tiles(kernel, _TWO), windows, swapped, _TWO)
    # A last single position costs less as a product of its own.
    x = jnp.pad(x, ((0, 0), *windows.padding, (0, 0)))
    length = x.shape[1 + axis]
    first = lax.slice_in_dim(x, 0, length - 1, axis=1 + axis)
    last = lax.slice_in_dim(x, count - 1, length, axis=1 + axis)
    whole, single = jnp.split(kernel, [count - 1], axis)
    (_, height, width, _), (kh, kw, _, _) = first.shape, whole.shape
    parts = Windows((height, width), (kh, kw))
    rest = _product(last, single[0, 0], swapped)
    return convolve_lines(first, whole, parts, swapped) + rest


def kernel_gradient(
    x: Images,
    g: Outputs,
    windows: Windows,
) -> Float[Array, "3 3 c features"]:
    """Return the gradient of the kernel, computed for few images at a time.

    Args:
      x: the images.
      g: the cotangents of the outputs.
      windows: windows of size (3, 3) with strides (1, 1).
    """
    (count, *_, c_in), c_out = x.shape, g.shape[-1]
    largest = _images_at_a_time(count, windows, (c_in, c_out), _TWO)
    images = next(i for i in range(largest, 0, -1) if count % i == 0)

    odd = tuple((0, size % 2) for size in windows.output_size)

    def contract(pixels, cotangents):
        return pixels.reshape(-1, c_in).T @ cotangents.reshape(-1, c_out)

    def add(total, chunk):
        x, g = chunk
        tiles = zip(
            _pixel_tiles(x, windows, _TWO),
            _tiles(g, (2, 2), 2, _TWO.products.T, odd),
            strict=True,
        )
        products = [list(map(contract, *rows)) for rows in tiles]
        return total + jnp.array(products), None

    chunks = [a.reshape(count // images, images, *a.shape[1:]) for a in (x, g)]
    total, _ = lax.scan(add, jnp.zeros((4, 4, c_in, c_out), x.dtype), chunks)
    rows = _along(_TWO.kernel.T, total)
    return jnp.array([_along(_TWO.kernel.T, row) for row in rows])
