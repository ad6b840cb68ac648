"""Pooling that is also fast on a CPU.

y = max_pool(x, window=3, stride=2)
z = average_pool(x, window=3)
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jaxtyping import Array, Float, Int

from seeflower_jax.models.dtypes import at_least_float32
from seeflower_jax.models.primitives import (
    compute_once,
    define_linear,
    pooling_primitive,
)
from seeflower_jax.models.windows import Images, Windows, image_size

Outputs = Float[Array, "n out_h out_w c"]

_ROUNDING_ERRORS = 8  # relative differences up to this number of rounding errors are 0


def _reduce(x: Images, initial: float, operation, windows: Windows) -> Outputs:
    padding = ((0, 0), *windows.padding, (0, 0))
    size, strides = (1, *windows.size, 1), (1, *windows.strides, 1)
    return lax.reduce_window(x, initial, operation, size, strides, padding)


def _standard_max(x: Images, windows: Windows) -> Outputs:
    return _reduce(x, -jnp.inf, lax.max, windows)


def _standard_max_tangent(
    x: Images, y: Outputs, tangent: Images, windows: Windows
) -> Outputs:
    return jax.jvp(lambda x: _standard_max(x, windows), (x,), (tangent,))[1]


def _standard_max_gradient(
    x: Images, y: Outputs, g: Outputs, windows: Windows
) -> Images:
    # In bfloat16, GPUs would round every sum.
    dtype = at_least_float32(x.dtype)
    pull = jax.vjp(lambda x: _standard_max(x, windows), x.astype(dtype))[1]
    return pull(g.astype(dtype))[0].astype(g.dtype)


def _cpu_max(x: Images, windows: Windows) -> Outputs:
    return functools.reduce(jnp.maximum, windows.gather(x))


def _first_maximum(x: Images, windows: Windows) -> Int[Array, "n out_h out_w c"]:
    """Return the place in each window of its first maximum, counted row by row.

    Values that differ by a few rounding errors count as equal. In an area of one
    colour, they are equal, but a convolution by `winograd` may round them differently.

    A comparison with the maximum would not work. XLA may compute `x` again with other
    rounding, and then no place equals the maximum that was computed before.
    """
    first, *rest = windows.gather(x)
    best, winner = first, jnp.zeros(first.shape, jnp.int8)
    # No margin in bfloat16, which `winograd` does not take.
    margin = _ROUNDING_ERRORS * float(jnp.finfo(at_least_float32(x.dtype)).eps)
    for place, tap in enumerate(rest, 1):
        larger = tap > best * (1 + margin * jnp.sign(best))
        best = jnp.where(larger, tap, best)
        winner = jnp.where(larger, jnp.int8(place), winner)
    return winner


def _cpu_max_tangent(
    x: Images, y: Outputs, tangent: Images, windows: Windows
) -> Outputs:
    winner, zero = _first_maximum(x, windows), jnp.zeros((), tangent.dtype)
    taps = enumerate(windows.gather(tangent))
    return functools.reduce(
        jnp.add, (jnp.where(winner == place, tap, zero) for place, tap in taps)
    )


def _cpu_max_gradient(x: Images, y: Outputs, g: Outputs, windows: Windows) -> Images:
    # The first maximum of a window receives its gradient, as in XLA's
    # select-and-scatter. On a CPU, XLA runs select-and-scatter one element at a time,
    # so this is much faster.
    def find(x, g):
        return windows.frame(_first_maximum(x, windows)), windows.frame(g)

    # To compute the maxima and `g` again for each place in the window would be up to 30
    # times slower in bfloat16.
    winner, g = compute_once(find, x, g)
    # In bfloat16, XLA would round every sum.
    values = g.astype(at_least_float32(g.dtype))
    gradient = windows.scatter_framed(
        jnp.where(winner == place, values, 0)
        for place in range(math.prod(windows.size))
    )
    return gradient.astype(g.dtype)


_max = pooling_primitive("max_pool", _standard_max, _cpu_max)
_max_tangent = pooling_primitive(
    "max_pool_tangent", _standard_max_tangent, _cpu_max_tangent
)
_max_gradient = pooling_primitive(
    "max_pool_gradient", _standard_max_gradient, _cpu_max_gradient
)
ad.defjvp2(
    _max, lambda tangent, y, x, **params: _max_tangent.bind(x, y, tangent, **params)
)
define_linear(_max_tangent, _max_gradient.bind, arrays=3)
define_linear(_max_gradient, _max_tangent.bind, arrays=3)


def max_pool(x: Images, window: int, stride: int) -> Outputs:
    """Compute the maximum over square windows, without padding.

    Args:
      x: the images.
      window: side of a window.
      stride: distance between neighbouring windows.

    Raises:
      ValueError: if an export leaves the size of the images open.
    """
    windows = Windows(image_size(x), (window, window), (stride, stride))
    return _max.bind(x, windows=windows)


def _standard_sum(x: Images, windows: Windows) -> Images:
    return _reduce(x, 0.0, lax.add, windows)


def _cpu_sum(x: Images, windows: Windows) -> Images:
    return functools.reduce(jnp.add, windows.gather(x))


_window_sum = pooling_primitive("window_sum", _standard_sum, _cpu_sum)
# The sum is its own transpose, because its windows are centred.
_window_sum_gradient = pooling_primitive("window_sum_gradient", _standard_sum, _cpu_sum)
define_linear(_window_sum, _window_sum_gradient.bind)
define_linear(_window_sum_gradient, _window_sum.bind)


def average_pool(x: Images, window: int, count_include_pad: bool = False) -> Images:
    """Compute the mean over the square window around each pixel.

    Args:
      x: the images.
      window: side of the window, odd.
      count_include_pad: whether the mean includes the zeros beyond the border.

    Raises:
      ValueError: if an export leaves the size of the images open.
    """
    size = image_size(x)
    pad = (window // 2, window // 2)
    windows = Windows(size, (window, window), padding=(pad, pad))
    # In bfloat16, every sum would be rounded, and so would the sums of the gradient.
    dtype = at_least_float32(x.dtype)
    sums = _window_sum.bind(x.astype(dtype), windows=windows)
    counts: Array | int = window**2
    if not count_include_pad:
        ones = jnp.ones((1, *size, 1), dtype)
        counts = _window_sum.bind(ones, windows=windows)
    return (sums / counts).astype(x.dtype)
