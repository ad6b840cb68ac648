"""Convolution that is also fast on a CPU.

    y = conv2d(x, kernel, strides=(2, 2), padding="VALID")

The inner product of a convolution with an array `g` of its shape is linear in `x`, in
`kernel` and in `g`. Its three derivatives are the convolution, the gradient with
respect to the images and the gradient with respect to the kernel. Each is a primitive,
and the transposes of each are the other two.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from seeflower_jax.models import winograd
from seeflower_jax.models.dtypes import at_least_float32
from seeflower_jax.models.primitives import bilinear_primitive, compute_once, vary_alike
from seeflower_jax.models.windows import (
    Images,
    Kernel,
    Outputs,
    Padding,
    Pair,
    Windows,
    image_size,
)

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 16  # with fewer, one product for all positions of the window is faster
_SOME_CHANNELS = 32  # from here on, the minimal filtering of Winograd is fast
# With fewer multiplications, a thousand calls save less time by the minimal filtering
# than its compilation takes: it has an operation for each product of a tile.
_SOME_MULTIPLICATIONS = 1 << 27
_MANY_CHANNELS = 48  # from here on, loops over the images are fast
# Sides of the outputs up to which, or from which on, another form is faster.
_SMALL_MAP, _MIDDLE_MAP, _LARGE_MAP, _HUGE_MAP = 17, 35, 80, 160


def _standard(x: Images, kernel: Kernel, windows: Windows) -> Outputs:
    return lax.conv_general_dilated(
        x, kernel, windows.strides, windows.padding, dimension_numbers=_LAYOUT
    )


def _standard_input_gradient(kernel: Kernel, g: Outputs, windows: Windows) -> Images:
    shape = (g.shape[0], *windows.image_size, kernel.shape[2])
    # The images are split over devices as `g` is.
    transpose = jax.linear_transpose(
        lambda x: _standard(x, kernel, windows), jax.typeof(g).update(shape=shape)
    )
    return transpose(g)[0]


def _standard_kernel_gradient(x: Images, g: Outputs, windows: Windows) -> Kernel:
    shape = (*windows.size, x.shape[3], g.shape[3])
    of_g = jax.typeof(g)
    whole = of_g.sharding.update(spec=PartitionSpec())  # on every device
    transpose = jax.linear_transpose(
        lambda kernel: _standard(x, kernel, windows),
        of_g.update(shape=shape, sharding=whole),
    )
    return transpose(g)[0]


def _is_pointwise(windows: Windows) -> bool:
    return windows.size == windows.strides == (1, 1)


def _fits_winograd(x: Images, features: int, windows: Windows) -> bool:
    # The transforms would round bfloat16 too much.
    exact = x.dtype == at_least_float32(x.dtype)
    sizes = max(windows.size) >= 3 and 2 not in windows.size
    unstrided = windows.strides == (1, 1)
    count = winograd.multiplications(x, (x.shape[3], features), windows)
    many = x.shape[3] >= _SOME_CHANNELS and count >= _SOME_MULTIPLICATIONS
    return exact and sizes and unstrided and many


def _minimal_filtering(
    x: Images, features: int, windows: Windows, one_device: bool
) -> Callable[..., Outputs] | None:
    """Return the function of `winograd` that is fastest for a convolution, or None."""
    if not _fits_winograd(x, features, windows):
        return None
    if min(windows.size) == 1:
        return winograd.convolve_lines  # 1.5 to 2 times as fast
    return winograd.convolve if one_device else None  # up to 2.5 times as fast


def _product(a: Array, b: Float[Array, "k n"]) -> Array:
    """Return `a @ b`, in float32 for bfloat16, which is what CPUs with AMX are fast at.

    A product of bfloat16 with a result of bfloat16 is 2 to 5 times slower.
    """
    contracted = ((a.ndim - 1,), (0,))
    return lax.dot_general(
        a, b, (contracted, ((), ())), preferred_element_type=at_least_float32(a.dtype)
    )


def _products(x: Images, kernel: Kernel, windows: Windows) -> Outputs:
    """Convolve by one matrix product for each position in the window."""
    kernels = kernel.reshape(-1, *kernel.shape[2:])
    products = map(_product, windows.gather(x), kernels)
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _few_channels(x: Images, kernel: Kernel, windows: Windows) -> Outputs:
    """Convolve by one matrix product for all positions in the window.

    With a horizontal stride of 2, every second pixel of a row starts a window. Two
    neighbours then become the channels of one wide pixel, and are copied together.
    """
    kh, kw, c_in, c_out = kernel.shape
    columns, (down, right) = windows.output_size[1], windows.strides
    (top, bottom), (left, _) = windows.padding
    wide = -(-kw // right)  # pixels of a window, along a row
    width = columns - 1 + wide
    height = windows.padded_size[0]
    beside = width * right - left - x.shape[2]
    pads = (0, 0, 0), (top, bottom, 0), (left, beside, 0), (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(-1, height, width, right * c_in)
    kernel = jnp.pad(kernel, ((0, 0), (0, wide * right - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(-1, c_out)
    windows = Windows((height, width), (kh, wide), (down, 1))
    taps = jnp.concatenate(list(windows.gather(x)), -1)
    return _product(taps, kernel).astype(x.dtype)


def _cropped(x: Images, kernel: Kernel, windows: Windows, padding: Padding) -> Outputs:
    """Convolve with at least the padding of `windows`, and crop the result."""
    y = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)
    top, left = (
        wide[0] - narrow[0]
        for wide, narrow in zip(padding, windows.padding, strict=True)
    )
    height, width = windows.output_size
    return y[:, top : top + height, left : left + width]


def _cpu(
    x: Images, kernel: Kernel, windows: Windows, *, one_device: bool = False
) -> Outputs:
    kh, kw, c_in, c_out = kernel.shape
    strided = windows.strides != (1, 1)
    if _is_pointwise(windows):
        return _product(x, kernel[0, 0]).astype(x.dtype)  # 2 to 4 times as fast
    if strided and c_in < _FEW_CHANNELS:
        return _few_channels(x, kernel, windows)
    side = max(windows.output_size)
    is_bfloat16 = x.dtype == jnp.bfloat16
    if filtering := _minimal_filtering(x, c_out, windows, one_device):
        return filtering(x, kernel, windows)
    if one_device and c_in >= _MANY_CHANNELS:
        smallest = _SMALL_MAP if is_bfloat16 else _MIDDLE_MAP
        if strided or smallest < side <= _LARGE_MAP:
            # The pixels at the positions in the window of one image stay in the cache.
            return lax.map(lambda image: _products(image[None], kernel, windows)[0], x)
    if strided or (is_bfloat16 and side <= _SMALL_MAP):
        return _products(x, kernel, windows)
    if _LARGE_MAP < side <= _HUGE_MAP and max(c_in, c_out) <= 64:
        # XLA's convolution is 1.2 to 2 times as fast with the widest padding.
        return _cropped(x, kernel, windows, ((kh - 1, kh - 1), (kw - 1, kw - 1)))
    if not any(map(any, windows.padding)):
        # XLA's unpadded convolution takes a slow path: pad, convolve, crop (2 times).
        return _cropped(
            x, kernel, windows, (((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2))
        )
    return _standard(x, kernel, windows)


def _cpu_input_gradient(
    kernel: Kernel, g: Outputs, windows: Windows, *, one_device: bool = False
) -> Images:
    kh, kw, c_in, c_out = kernel.shape
    if c_in < _FEW_CHANNELS:
        taps = jnp.split(_product(g, kernel.reshape(-1, c_out).T), kh * kw, -1)
        return windows.scatter(taps).astype(g.dtype)
    if windows.strides == (1, 1):
        # The convolution is written out, because XLA transforms it to its fast form
        # only outside of loops. Within a scan this is 4 times as fast.
        turned = jnp.flip(kernel, (0, 1))
        (top, bottom), (left, right) = windows.padding
        padding = (kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)
        turned_windows = Windows(windows.output_size, (kh, kw), (1, 1), padding)
        if filtering := _minimal_filtering(g, c_in, turned_windows, one_device):
            return filtering(g, turned, turned_windows, swapped=True)
        turned = turned.swapaxes(2, 3)
        return _cpu(g, turned, turned_windows, one_device=one_device)
    kernels = kernel.reshape(-1, c_in, c_out).swapaxes(1, 2)
    images = windows.scatter(_product(g, kernel) for kernel in kernels)
    return lax.optimization_barrier(images.astype(g.dtype))


def _cpu_kernel_gradient(
    x: Images, g: Outputs, windows: Windows, *, one_device: bool = False
) -> Kernel:
    kh, kw = windows.size
    c_in, c_out = x.shape[3], g.shape[3]
    side = max(windows.output_size)
    if _is_pointwise(windows):
        return _pointwise_kernel_gradient(x, g, one_device)[None, None]
    unstrided = windows.strides == (1, 1)
    if one_device and _fits_winograd(x, c_out, windows):
        return winograd.kernel_gradient(x, g, windows)  # 1.2 to 6 times as fast
    if one_device and unstrided and (kh, kw) == (3, 3) and side > _SMALL_MAP:
        return _kernel_gradient_by_image(x, g, windows)
    keeps_size = unstrided and windows.output_size == windows.image_size
    if kh == kw and keeps_size and side < 64:
        return _standard_kernel_gradient(x, g, windows)
    # One matrix product for each position of the window is up to 4 times as fast as
    # XLA's convolution, which has a window as large as the image.
    products = [_contract_first(tap, g) for tap in windows.gather(x)]
    return jnp.stack(products).reshape(kh, kw, c_in, c_out).astype(x.dtype)


def _pointwise_kernel_gradient(
    x: Images, g: Outputs, one_device: bool
) -> Float[Array, "c features"]:
    c_in, c_out = x.shape[3], g.shape[3]

    def multiply(x, g):
        # A product that contracts the first axes is up to 2 times slower than this.
        transposed = lax.optimization_barrier(x.reshape(-1, c_in).T)
        return _product(transposed, g.reshape(-1, c_out)).astype(x.dtype)

    # Without the condition, XLA computes `x` again while it transposes it, in an order
    # that is slow.
    return compute_once(multiply, x, g) if one_device else multiply(x, g)


def _contract_first(
    a: Float[Array, "n h w c"], b: Float[Array, "n h w features"]
) -> Float[Array, "c features"]:
    """Return the sum of the outer products of the vectors at all places."""
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return lax.dot_general(
        a, b, (((0,), (0,)), ((), ())), preferred_element_type=at_least_float32(a.dtype)
    )


def _kernel_gradient_by_image(x: Images, g: Outputs, windows: Windows) -> Kernel:
    """Return the gradient of the kernel as a sum over the images.

    The pixels at the positions in the window of one image stay in the cache, which is
    1.5 to 3 times as fast as products over all images.
    """
    c_in, c_out = x.shape[3], g.shape[3]

    def products(pixels, g):
        if x.dtype != jnp.bfloat16:
            taps = windows.gather(pixels[None])
            return [_contract_first(tap, g[None]) for tap in taps]
        # Products of bfloat16 are fast only where they contract the last axis of `a`.
        channels_first = lax.optimization_barrier(jnp.moveaxis(pixels, -1, 0))
        taps = windows.gather(channels_first[..., None])
        return [_product(tap.reshape(c_in, -1), g.reshape(-1, c_out)) for tap in taps]

    def add(total, image):
        return total + jnp.stack(products(*image)), None

    zeros = jnp.zeros((math.prod(windows.size), c_in, c_out), at_least_float32(x.dtype))
    total, _ = lax.scan(add, zeros, (x, g))
    return total.reshape(*windows.size, c_in, c_out).astype(x.dtype)


_convolution = bilinear_primitive(
    "convolution", _standard, _cpu, shared_axes=((0, 0), (3, 3))
)
_input_gradient = bilinear_primitive(
    "convolution_input_gradient",
    _standard_input_gradient,
    _cpu_input_gradient,
    shared_axes=((2, 3), (0, 0)),
)
_kernel_gradient = bilinear_primitive(
    "convolution_kernel_gradient",
    _standard_kernel_gradient,
    _cpu_kernel_gradient,
    shared_axes=((3, 2), (3, 3)),
)
# The transposes with respect to the first and to the second array. `ct` is the
# cotangent of the result; the array that is transposed is not used.
ad.defbilinear(
    _convolution,
    lambda ct, x, kernel, **params: _input_gradient.bind(kernel, ct, **params),
    lambda ct, x, kernel, **params: _kernel_gradient.bind(x, ct, **params),
)
ad.defbilinear(
    _input_gradient,
    lambda ct, kernel, g, **params: _kernel_gradient.bind(ct, g, **params),
    lambda ct, kernel, g, **params: _convolution.bind(ct, kernel, **params),
)
ad.defbilinear(
    _kernel_gradient,
    lambda ct, x, g, **params: _input_gradient.bind(ct, g, **params),
    lambda ct, x, g, **params: _convolution.bind(x, ct, **params),
)


def conv2d(
    x: Images, kernel: Kernel, strides: Pair = (1, 1), padding: str = "SAME"
) -> Outputs:
    """Cross-correlate images with a kernel, as `lax.conv_general_dilated` does.

    Args:
      x: the images.
      kernel: the kernel, in the dtype of the images.
      strides: (vertical, horizontal).
      padding: 'SAME' or 'VALID'.

    Raises:
      ValueError: if `padding` is neither 'SAME' nor 'VALID', or if an export leaves
        the size of the images open.
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}; expected 'SAME' or 'VALID'")
    size, (kh, kw), (down, right) = image_size(x), kernel.shape[:2], strides
    rows, columns = lax.padtype_to_pads(size, (kh, kw), strides, padding)
    windows = Windows(size, (kh, kw), (down, right), (rows, columns))
    return _convolution.bind(*vary_alike(x, kernel), windows=windows)
