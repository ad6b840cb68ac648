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

from seeflower_jax.models.windows import Windows

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
    x: Float[Array, "... h w c"],
    side: int,
    windows: Windows,
    transform: Transform,
    before: tuple[int, int] = (0, 0),
) -> list[list[Float[Array, "... rows columns c"]]]:
    """Cut tiles out of images and transform them.

    Args:
      x: the images. They are padded with zeros.
      side: side of the tiles, which are two pixels apart.
      windows: the windows of the convolution.
      transform: transform of the values along one side.
      before: zeros above, and to the left of, the images.

    Returns:
      Transformed tiles, as arrays of the value at each of 4 x 4 places.
    """
    rows, columns = _tile_counts(windows)
    *leading, height, width, _ = x.shape
    padding = [
        (zeros, 2 * count - 2 + side - zeros - size, 0)
        for zeros, count, size in zip(
            before, (rows, columns), (height, width), strict=True
        )
    ]
    none = (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), [none] * len(leading) + [*padding, none])
    cut = [x[..., i : i + 2 * rows - 1 : 2, :, :] for i in range(side)]
    return [
        transform([row[..., i : i + 2 * columns - 1 : 2, :] for i in range(side)])
        for row in transform(cut)
    ]


def _pixel_tiles(x: Float[Array, "... h w c"], windows: Windows) -> list[list[Array]]:
    (top, _), (left, _) = windows.padding
    return _tiles(x, 4, windows, _transform_pixels, (top, left))


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
        for pixels, weights in zip(_pixel_tiles(image, windows), kernels, strict=True):
            products = [a @ b for a, b in zip(pixels, weights, strict=True)]
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

    def contract(pixels, cotangents):
        return pixels.reshape(-1, c_in).T @ cotangents.reshape(-1, c_out)

    def add(total, chunk):
        x, g = chunk
        tiles = zip(
            _pixel_tiles(x, windows),
            _tiles(g, 2, windows, _transpose_products),
            strict=True,
        )
        products = [list(map(contract, *rows)) for rows in tiles]
        return total + jnp.array(products), None

    chunks = [a.reshape(count // images, images, *a.shape[1:]) for a in (x, g)]
    total, _ = lax.scan(add, jnp.zeros((4, 4, c_in, c_out), x.dtype), chunks)
    rows = _transpose_kernel(total)
    return jnp.array([_transpose_kernel(row) for row in rows])
