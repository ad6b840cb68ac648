"""Convolution that is also fast on a CPU.

    y = conv2d(x, kernel, strides=(2, 2), padding="VALID")

The inner product of a convolution with an array `g` of its shape is linear in `x`, in
`kernel` and in `g`. Its three derivatives are the convolution, the gradient with
respect to the images and the gradient with respect to the kernel. Each is a primitive,
and the transposes of each are the other two.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jaxtyping import Array, Float

from seeflower_jax.models.primitives import bilinear_primitive
from seeflower_jax.models.windows import Pair, Windows

Images = Float[Array, "n h w c"]
Kernel = Float[Array, "kernel_h kernel_w c features"]
Outputs = Float[Array, "n out_h out_w features"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 16  # with fewer, one product for all positions of the window is faster
_SMALL_MAP = 17  # up to here, products of bfloat16 are faster than its convolution


def _standard(x: Images, kernel: Kernel, windows: Windows) -> Outputs:
    return lax.conv_general_dilated(
        x, kernel, windows.strides, windows.padding, dimension_numbers=_LAYOUT
    )


def _standard_input_gradient(kernel: Kernel, g: Outputs, windows: Windows) -> Images:
    shape = (g.shape[0], *windows.image_size, kernel.shape[2])
    transpose = jax.linear_transpose(
        lambda x: _standard(x, kernel, windows), jax.ShapeDtypeStruct(shape, g.dtype)
    )
    return transpose(g)[0]


def _standard_kernel_gradient(x: Images, g: Outputs, windows: Windows) -> Kernel:
    shape = (*windows.size, x.shape[3], g.shape[3])
    transpose = jax.linear_transpose(
        lambda kernel: _standard(x, kernel, windows),
        jax.ShapeDtypeStruct(shape, g.dtype),
    )
    return transpose(g)[0]


def _is_pointwise(windows: Windows) -> bool:
    return windows.size == windows.strides == (1, 1)


def _product(a: Array, b: Float[Array, "k n"]) -> Array:
    """Return `a @ b`, in float32 for bfloat16, which is what CPUs with AMX are fast at.

    A product of bfloat16 with a result of bfloat16 is 2 to 5 times slower.
    """
    contracted = ((a.ndim - 1,), (0,))
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=dtype)


def _cpu(x: Images, kernel: Kernel, windows: Windows) -> Outputs:
    kh, kw = windows.size
    strided = windows.strides != (1, 1)
    if _is_pointwise(windows):
        return _product(x, kernel[0, 0]).astype(x.dtype)  # 2 to 4 times as fast
    if strided and x.shape[3] < _FEW_CHANNELS:
        taps = jnp.concatenate(list(windows.gather(x)), -1)
        return _product(taps, kernel.reshape(-1, kernel.shape[-1])).astype(x.dtype)
    is_small = max(windows.output_size) <= _SMALL_MAP
    if strided or (x.dtype == jnp.bfloat16 and is_small):
        kernels = kernel.reshape(-1, *kernel.shape[2:])
        products = map(_product, windows.gather(x), kernels)
        return functools.reduce(jnp.add, products).astype(x.dtype)
    if not any(map(any, windows.padding)):
        # XLA's unpadded convolution takes a slow path: pad, convolve, crop (2 times).
        y = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT
        )
        top, left = (kh - 1) // 2, (kw - 1) // 2
        height, width = windows.output_size
        return y[:, top : top + height, left : left + width]
    return _standard(x, kernel, windows)


def _cpu_input_gradient(kernel: Kernel, g: Outputs, windows: Windows) -> Images:
    kh, kw, c_in, c_out = kernel.shape
    if c_in < _FEW_CHANNELS:
        taps = jnp.split(_product(g, kernel.reshape(-1, c_out).T), kh * kw, -1)
        return windows.scatter(taps).astype(g.dtype)
    if windows.strides == (1, 1):
        # The convolution is written out, because XLA transforms it to its fast form
        # only outside of loops. Within a scan this is 4 times as fast.
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        (top, bottom), (left, right) = windows.padding
        padding = (kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)
        return _cpu(g, turned, Windows(windows.output_size, (kh, kw), (1, 1), padding))
    kernels = kernel.reshape(-1, c_in, c_out).swapaxes(1, 2)
    images = windows.scatter(_product(g, kernel) for kernel in kernels)
    return lax.optimization_barrier(images.astype(g.dtype))


def _cpu_kernel_gradient(x: Images, g: Outputs, windows: Windows) -> Kernel:
    kh, kw = windows.size
    c_in, c_out = x.shape[3], g.shape[3]
    flat_g = g.reshape(-1, c_out)
    if _is_pointwise(windows):
        # A product that contracts the first axes is up to 2 times slower than this. The
        # barriers keep the transposition apart from what computes and what uses it.
        transposed = lax.optimization_barrier(x).reshape(-1, c_in).T
        transposed = lax.optimization_barrier(transposed)
        return _product(transposed, flat_g).astype(x.dtype)[None, None]
    keeps_size = windows.strides == (1, 1) and windows.output_size == windows.image_size
    if kh == kw and keeps_size and g.shape[1] < 64:
        return _standard_kernel_gradient(x, g, windows)
    # One matrix product for each position of the window is up to 4 times as fast as
    # XLA's convolution, which has a window as large as the image.
    products = [
        lax.dot_general(tap.reshape(-1, c_in), flat_g, (((0,), (0,)), ((), ())))
        for tap in windows.gather(x)
    ]
    return jnp.stack(products).reshape(kh, kw, c_in, c_out)


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
      ValueError: if `padding` is neither 'SAME' nor 'VALID'.
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}; expected 'SAME' or 'VALID'")
    (_, height, width, _), (kh, kw, _, _), (down, right) = (
        x.shape,
        kernel.shape,
        strides,
    )
    rows, columns = lax.padtype_to_pads((height, width), (kh, kw), strides, padding)
    windows = Windows((height, width), (kh, kw), (down, right), (rows, columns))
    return _convolution.bind(x, kernel, windows=windows)
