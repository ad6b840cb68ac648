"""Convolution with windows of 3 x 3 positions by Winograd's minimal filtering.

    y = winograd.convolve(x, kernel, windows)
    kernel_gradient = winograd.kernel_gradient(x, g, windows)

A tile of 2 x 2 outputs depends on 4 x 4 pixels. A direct convolution multiplies 36
times for them, F(2 x 2, 3 x 3) 16 times: it transforms pixels and kernels, multiplies
them place by place, and transforms the products to outputs. The gradient of the kernel
has the same products, with the transposed transforms. The rounding error is like that
of the direct convolution.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016),
section 4.1.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seeflower_jax.models.windows import Padding, Windows

_VALUES = 1 << 18  # numbers of channels times tiles that stay in the cache

# The values along one side of a tile. A transform is applied to both sides in turn.
Values = Sequence[Array] | Array
Transform = Callable[[Values], list[Array]]


def _transform_pixels(d: Values) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _transform_kernel(g: Values) -> list[Array]:
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _transform_products(m: Values) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _transpose_kernel(m: Values) -> list[Array]:
    return [m[0] + (m[1] + m[2]) / 2, (m[1] - m[2]) / 2, (m[1] + m[2]) / 2 + m[3]]


def _transpose_products(y: Values) -> list[Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _tile_counts(windows: Windows) -> tuple[int, int]:
    rows, columns = (-(-side // 2) for side in windows.output_size)
    return rows, columns


def _images_at_a_time(count: int, windows: Windows, c_in: int, c_out: int) -> int:
    if not isinstance(count, int):
        return 1  # An export has a symbolic number of images, which cannot be divided.
    values = math.prod(_tile_counts(windows)) * (c_in + c_out)
    return min(max(1, _VALUES // values), max(1, count))


def _tiles(
    x: Float[Array, "n h w c"], side: int, transform: Transform, padding: Padding
) -> list[list[Float[Array, "n rows columns c"]]]:
    """Cut tiles out of images, two pixels apart, and transform them.

    Args:
      x: the images.
      side: side of the tiles.
      transform: transform of the values along one side.
      padding: zeros around the images.

    Returns:
      Transformed tiles, as arrays of the value at each of 4 x 4 places.
    """
    _, height, width, _ = x.shape
    places = Windows((height, width), (side, side), (2, 2), padding).gather(x)
    rows = [transform([next(places) for _ in range(side)]) for _ in range(side)]
    columns = [transform(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _pixel_tiles(x: Float[Array, "n h w c"], windows: Windows) -> list[list[Array]]:
    # An odd side has a further row or column of tiles, half of which is not used.
    (rows, columns), ((top, bottom), (left, right)) = (
        windows.output_size,
        windows.padding,
    )
    padding = (top, bottom + rows % 2), (left, right + columns % 2)
    return _tiles(x, 4, _transform_pixels, padding)


def convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c features"], windows: Windows
) -> Float[Array, "n out_h out_w features"]:
    """Return the convolution, computed for few images at a time.

    Args:
      x: the images.
      kernel: the kernel.
      windows: windows of size (3, 3) with strides (1, 1).
    """
    rows, columns = _tile_counts(windows)
    kernels = [_transform_kernel(row) for row in _transform_kernel(kernel)]

    def convolve_image(image):
        outputs = []
        pixels = _pixel_tiles(image[None], windows)
        for row, weights in zip(pixels, kernels, strict=True):
            products = [a[0] @ b for a, b in zip(row, weights, strict=True)]
            outputs.append(jnp.stack(_transform_products(products), 2))
        image = jnp.stack(_transform_products(outputs), 1)
        return image.reshape(2 * rows, 2 * columns, -1)

    images = _images_at_a_time(x.shape[0], windows, *kernel.shape[2:])
    batch_size = images if images > 1 else None
    height, width = windows.output_size
    return lax.map(convolve_image, x, batch_size=batch_size)[:, :height, :width]


def kernel_gradient(
    x: Float[Array, "n h w c"],
    g: Float[Array, "n out_h out_w features"],
    windows: Windows,
) -> Float[Array, "3 3 c features"]:
    """Return the gradient of the kernel, computed for few images at a time.

    Args:
      x: the images.
      g: the cotangents of the outputs.
      windows: windows of size (3, 3) with strides (1, 1).
    """
    (count, *_, c_in), c_out = x.shape, g.shape[-1]
    largest = _images_at_a_time(count, windows, c_in, c_out)
    images = next(i for i in range(largest, 0, -1) if count % i == 0)

    odd = tuple((0, size % 2) for size in windows.output_size)

    def contract(pixels, cotangents):
        return pixels.reshape(-1, c_in).T @ cotangents.reshape(-1, c_out)

    def add(total, chunk):
        x, g = chunk
        tiles = zip(
            _pixel_tiles(x, windows),
            _tiles(g, 2, _transpose_products, odd),
            strict=True,
        )
        products = [list(map(contract, *rows)) for rows in tiles]
        return total + jnp.array(products), None

    chunks = [a.reshape(count // images, images, *a.shape[1:]) for a in (x, g)]
    total, _ = lax.scan(add, jnp.zeros((4, 4, c_in, c_out), x.dtype), chunks)
    rows = _transpose_kernel(total)
    return jnp.array([_transpose_kernel(row) for row in rows])
