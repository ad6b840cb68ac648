"""Convolution by Winograd's minimal filtering.

    y = winograd.convolve(x, kernel, windows)           # windows of 3 x 3, 5 x 5, ...
    y = winograd.convolve_lines(x, kernel, windows)     # windows of 7 x 1, 1 x 3, ...
    kernel_gradient = winograd.kernel_gradient(x, g, windows)

A tile of 2 x 2 outputs depends on 4 x 4 pixels. A direct convolution with windows of
3 x 3 positions multiplies 36 times for them, F(2 x 2, 3 x 3) 16 times: it transforms
pixels and kernels, multiplies them place by place, and transforms the products to
outputs. F(4 x 4, 3 x 3), for large convolutions, has a quarter of the products. Along
one axis, F(4, 3) multiplies 6 times instead of 12. The gradient of the kernel has the
same products, with the transposed transforms. Windows of more than 5 positions along a
side are cut into parts, whose convolutions are added: 7 x 1 positions into 4 x 1 and
3 x 1. The rounding error of F(2 x 2, 3 x 3) is twice that of the direct convolution,
that of F(4 x 4, 3 x 3) eight times. A pixel that is not finite spoils all outputs of
its tiles.

Sources: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016),
section 4; Barabasz et al., "Error analysis and improving the accuracy of Winograd
convolution for deep neural networks" (2018), section 2, for the matrices.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence

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
# In float32, F(4, 3) is 1.2 to 1.8 times as fast as F(2, 3) from so many products of a
# direct convolution on, and so many outputs for each channel. Compilation takes longer.
_MANY, _OUTPUTS_PER_CHANNEL = 1 << 30, 4
_UNKNOWN = 16  # images of a batch, where an export leaves their number open

# The values along one side of a tile. A transform is applied to both sides in turn.
Values = Sequence[Array] | Array
Transform = Float[np.ndarray, "new old"]
Positions = tuple[slice, slice]  # (rows, columns) of a window


@dataclasses.dataclass(frozen=True)
class _Filtering:
    """F(m, r) along one side: m outputs of r positions from m + r - 1 products.

    Attributes:
      outputs: m.
      pixels: transform of m + r - 1 pixels.
      kernel: transform of the r positions of the kernel.
      products: transform of m + r - 1 products to the outputs.
    """

    outputs: int
    pixels: Transform
    kernel: Transform
    products: Transform

    @classmethod
    def at(cls, positions: int, *points: float) -> "_Filtering":
        """Return F(m, r) that evaluates polynomials at points and at infinity.

        Pixels, kernel and outputs are the coefficients of polynomials. Two of these are
        multiplied point by point, the third is interpolated (the algorithm of Toom and
        Cook, transposed).

        Args:
          positions: r.
          *points: m + r - 2 different numbers.
        """
        count = len(points) + 1
        outputs = count + 1 - positions
        pixels, kernel = np.zeros((count, count)), np.zeros((count, positions))
        products = np.zeros((outputs, count))
        for place, point in enumerate(points):
            others = [other for other in points if other != point]
            pixels[place, :-1] = polynomial.polyfromroots(others)
            scale = math.prod(point - other for other in others)
            kernel[place] = [point**power / scale for power in range(positions)]
            products[:, place] = [point**power for power in range(outputs)]
        pixels[-1] = polynomial.polyfromroots(points)
        kernel[-1, -1] = products[-1, -1] = 1.0
        return cls(outputs, pixels, kernel, products)

    def tiles(self, count: int) -> int:
        """Return the number of tiles for a row of outputs."""
        return -(-count // self.outputs)

    def products_of(self, count: int) -> int:
        """Return the number of products for a row of outputs."""
        return self.tiles(count) * len(self.pixels)


Filterings = tuple[_Filtering, _Filtering]  # along (height, width)

# A tile of one colour has only the product at point 1, and equal outputs, see `_along`.
# With this point, these other points round least of those that were tried.
_POINTS = 0.0, 1.0, -1.0, 2.0, -0.5
_MOST_POSITIONS = 5
# By the positions along a side, from small to large tiles.
_FILTERINGS = {
    1: [_Filtering.at(1)],
    3: [
        _Filtering.at(3, *_POINTS[:3]),
        _Filtering.at(3, *_POINTS[:4]),
        _Filtering.at(3, *_POINTS),
    ],
    4: [_Filtering.at(4, *_POINTS)],
    5: [_Filtering.at(5, *_POINTS)],
}


def _along(transform: Transform, values: Values) -> list[Array]:
    """Transform the values along one side.

    A row of factors that add up to 0 is applied to differences of values. So equal
    values become 0, without a rounding error: a maximum over an area of one colour
    would otherwise be at any of its places, and the gradient too.
    """
    return [_combine(row, values) for row in transform]


def _combine(row: Float[np.ndarray, "old"], values: Values) -> Array:
    """Return the sum of factors times values."""
    for step in (2, 1):  # the distance of the values whose difference is taken
        sums = [row[place::-step].sum() for place in range(len(row))]
        if not any(sums[-step:]):
            row = np.negative(sums[:-step])
            values = [b - a for a, b in zip(values, values[step:], strict=False)]
            break
    terms = [
        value if factor == 1 else factor.item() * value
        for factor, value in zip(row, values, strict=True)
        if factor
    ]
    return functools.reduce(operator.add, terms)


def multiplications(x: Images, channels: Sequence[int], windows: Windows) -> int:
    """Return the number of multiplications of a direct convolution."""
    count = x.shape[0] if isinstance(x.shape[0], int) else _UNKNOWN
    return math.prod((count, *windows.output_size, *windows.size, *channels))


def _images_at_a_time(
    count: int, windows: Windows, channels: Sequence[int], filterings: Filterings
) -> int:
    tiles = math.prod(
        filtering.tiles(side)
        for filtering, side in zip(filterings, windows.output_size, strict=True)
    )
    count = count if isinstance(count, int) else 1
    largest = max(1, min(_VALUES // (tiles * sum(channels)), count))
    # The images that are left over would need a loop of their own, to be compiled too.
    sizes = range(largest, largest // 2, -1)
    return next((size for size in sizes if count % size == 0), largest)


def _tiles(
    x: Images, transforms: tuple[Transform, Transform], steps: Pair, padding: Padding
) -> list[list[Float[Array, "n rows columns c"]]]:
    """Cut tiles out of images and transform them.

    Args:
      x: the images.
      transforms: transforms of the values along (height, width) of a tile.
      steps: pixels from a tile to the next one, along (height, width).
      padding: zeros around the images.

    Returns:
      Transformed tiles, as arrays of the value at each place in a tile.
    """
    _, height, width, _ = x.shape
    vertical, horizontal = transforms
    sides = vertical.shape[1], horizontal.shape[1]
    places = Windows((height, width), sides, steps, padding).gather(x)
    rows = [
        _along(horizontal, [next(places) for _ in range(sides[1])])
        for _ in range(sides[0])
    ]
    columns = [_along(vertical, column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _pixel_tiles(
    x: Images, windows: Windows, filterings: Filterings
) -> list[list[Array]]:
    # The last row or column of tiles may have outputs that are not used.
    rows, columns = (
        (before, after + -count % filtering.outputs)
        for filtering, count, (before, after) in zip(
            filterings, windows.output_size, windows.padding, strict=True
        )
    )
    vertical, horizontal = filterings
    transforms = vertical.pixels, horizontal.pixels
    steps = vertical.outputs, horizontal.outputs
    return _tiles(x, transforms, steps, (rows, columns))


def _kernel_tiles(
    kernel: Kernel, filterings: Filterings
) -> list[list[Float[Array, "_ _"]]]:
    vertical, horizontal = filterings
    rows = _along(vertical.kernel, kernel)
    return [_along(horizontal.kernel, row) for row in rows]


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
    filterings: Filterings,
) -> Outputs:
    """Convolve with a transformed kernel.

    Args:
      x: the images.
      kernels: the transformed kernel, from `_kernel_tiles`.
      windows: the windows, with strides (1, 1).
      swapped: see `convolve`.
      filterings: the filterings along (height, width).
    """
    vertical, horizontal = filterings
    rows = []
    for tiles, weights in zip(
        _pixel_tiles(x, windows, filterings), kernels, strict=True
    ):
        products = [
            _product(a, b, swapped) for a, b in zip(tiles, weights, strict=True)
        ]
        rows.append(jnp.stack(_along(horizontal.products, products), 3))
    y = jnp.stack(_along(vertical.products, rows), 2)
    _, down, count_down, right, count_right, features = y.shape
    y = y.reshape(-1, down * count_down, right * count_right, features)
    height, width = windows.output_size
    return y[:, :height, :width]


def _parts(windows: Windows) -> list[list[tuple[Positions, Windows]]]:
    """Cut windows into rows of parts of up to 5 positions along each side."""
    rows, columns = (
        [
            slice(int(part[0]), int(part[-1]) + 1)
            for part in np.array_split(range(side), -(-side // _MOST_POSITIONS))
        ]
        for side in windows.size
    )
    return [
        [((row, column), windows.part(row, column)) for column in columns]
        for row in rows
    ]


def _add_parts(
    convolve_part: Callable[[Kernel, Windows], Outputs],
    kernel: Kernel,
    windows: Windows,
) -> Outputs:
    parts = itertools.chain.from_iterable(_parts(windows))
    return functools.reduce(
        operator.add,
        [convolve_part(kernel[positions], part) for positions, part in parts],
    )


def _by_work(x: Images, channels: Sequence[int], windows: Windows) -> Filterings:
    """Return filterings with large tiles if these are faster, but not in float64.

    In float64, small rounding errors matter more than speed. A pooling window of 2 x 2
    values is then also one tile, whose equal values are rounded alike.
    """
    count = multiplications(x, channels, windows)
    outputs = count // math.prod((*windows.size, *channels))
    large = count >= _MANY and outputs >= _OUTPUTS_PER_CHANNEL * sum(channels)
    place = -1 if large and x.dtype == jnp.float32 else 0
    vertical, horizontal = (_FILTERINGS[side][place] for side in windows.size)
    return vertical, horizontal


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
    count, channels = x.shape[0], kernel.shape[2:]

    def convolve_part(kernel, windows):
        filterings = _by_work(x, channels, windows)
        kernels = _kernel_tiles(kernel, filterings)

        def convolve_image(image):
            return _filter(image[None], kernels, windows, swapped, filterings)[0]

        images = _images_at_a_time(count, windows, channels, filterings)
        return lax.map(convolve_image, x, batch_size=images if images > 1 else None)

    return _add_parts(convolve_part, kernel, windows)


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

    def convolve_part(kernel, windows):
        vertical, horizontal = (
            min(_FILTERINGS[side], key=lambda filtering: filtering.products_of(count))
            for side, count in zip(windows.size, windows.output_size, strict=True)
        )
        kernels = _kernel_tiles(kernel, (vertical, horizontal))
        return _filter(x, kernels, windows, swapped, (vertical, horizontal))

    return _add_parts(convolve_part, kernel, windows)


def kernel_gradient(x: Images, g: Outputs, windows: Windows) -> Kernel:
    """Return the gradient of the kernel, computed for few images at a time.

    Args:
      x: the images.
      g: the cotangents of the outputs.
      windows: windows of 1 or at least 3 positions along each side, with strides
        (1, 1).
    """
    rows = [
        [_kernel_gradient_part(x, g, part) for _, part in row]
        for row in _parts(windows)
    ]
    return jnp.concatenate([jnp.concatenate(row, 1) for row in rows])


def _kernel_gradient_part(x: Images, g: Outputs, windows: Windows) -> Kernel:
    (count, *_, c_in), c_out = x.shape, g.shape[-1]
    filterings = _by_work(x, (c_in, c_out), windows)
    largest = _images_at_a_time(count, windows, (c_in, c_out), filterings)
    images = next(i for i in range(largest, 0, -1) if count % i == 0)
    vertical, horizontal = filterings
    transforms = vertical.products.T, horizontal.products.T
    steps = vertical.outputs, horizontal.outputs
    rows, columns = (
        (0, -side % step) for side, step in zip(windows.output_size, steps, strict=True)
    )

    def contract(pixels, cotangents):
        return pixels.reshape(-1, c_in).T @ cotangents.reshape(-1, c_out)

    def add(total, chunk):
        x, g = chunk
        tiles = zip(
            _pixel_tiles(x, windows, filterings),
            _tiles(g, transforms, steps, (rows, columns)),
            strict=True,
        )
        products = [list(map(contract, *row)) for row in tiles]
        return total + jnp.array(products), None

    chunks = [a.reshape(count // images, images, *a.shape[1:]) for a in (x, g)]
    sides = len(vertical.pixels), len(horizontal.pixels)
    total, _ = lax.scan(add, jnp.zeros((*sides, c_in, c_out), x.dtype), chunks)
    lines = _along(vertical.kernel.T, total)
    return jnp.array([_along(horizontal.kernel.T, line) for line in lines])
