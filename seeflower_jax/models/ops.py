"""Convolution and pooling that are also fast on a CPU.

    y = conv2d(x, kernel, strides=(2, 2), padding="VALID")

Every function computes the standard operation; on a GPU or TPU it is the standard XLA
operation. XLA's CPU backend reaches its speed only for some shapes, so on a CPU the
same sums are written in the forms it is fast at (`_forward_cpu`, `_input_gradient_cpu`,
`_kernel_gradient_cpu`). The choice is made when the function is lowered, so one traced
function serves both.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_NO_PADDING = ((0, 0), (0, 0))


def _explicit_padding(x_shape, kernel_shape, strides, padding):
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}; expected 'SAME' or 'VALID'")
    return lax.padtype_to_pads(x_shape[1:3], kernel_shape[:2], strides, padding)


def _conv(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_LAYOUT
    )


def _shifted(x, kernel_size, strides, padding, out_size):
    """Yields, row by row of the kernel, the pixels of `x` that each tap multiplies."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            yield x[
                :,
                i : i + (out_size[0] - 1) * strides[0] + 1 : strides[0],
                j : j + (out_size[1] - 1) * strides[1] + 1 : strides[1],
            ]


def _add_shifted(taps, x_shape, kernel_size, strides, padding):
    """The transpose of `_shifted`: the sum, [N, H, W, C], of what each tap gives to the
    pixels that it multiplies."""
    sides = [size + sum(pad) for size, pad in zip(x_shape[1:3], padding, strict=True)]
    total = 0.0
    for place, tap in enumerate(taps):
        config = [(0, 0, 0)]
        for start, side, size, stride in zip(
            divmod(place, kernel_size[1]), sides, tap.shape[1:3], strides, strict=True
        ):
            end = side - start - (size - 1) * stride - 1
            config.append((start, end, stride - 1))
        total += lax.pad(tap, jnp.zeros((), tap.dtype), [*config, (0, 0, 0)])
    (top, bottom), (left, right) = padding
    height, width = sides
    return total[:, top : height - bottom, left : width - right]


def _forward_cpu(x, kernel, strides, padding):
    kh, kw, c_in, _ = kernel.shape
    pads = _explicit_padding(x.shape, kernel.shape, strides, padding)
    if (kh, kw) == (1, 1) and strides == (1, 1):
        return x @ kernel[0, 0]  # a matrix product: 2 to 4 times as fast
    if strides == (1, 1) and padding == "VALID":
        # XLA's unpadded convolution takes a slow path: pad, convolve, crop (2 times).
        y = _conv(x, kernel, strides, "SAME")
        top, left = (kh - 1) // 2, (kw - 1) // 2
        height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
        return y[:, top : top + height, left : left + width]
    if strides != (1, 1):
        out_size = [
            (size + sum(pad) - k) // s + 1
            for size, pad, k, s in zip(
                x.shape[1:3], pads, (kh, kw), strides, strict=True
            )
        ]
        taps = list(_shifted(x, (kh, kw), strides, pads, out_size))
        if c_in < 16:  # few channels: one product over all taps
            return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])
        return sum(tap @ kernel[i // kw, i % kw] for i, tap in enumerate(taps))
    return _conv(x, kernel, strides, padding)


def _input_gradient(x, kernel, g, strides, padding):
    return jax.vjp(lambda x: _conv(x, kernel, strides, padding), x)[1](g)[0]


def _input_gradient_cpu(x, kernel, g, strides, padding):
    kh, kw = kernel.shape[:2]
    pads = _explicit_padding(x.shape, kernel.shape, strides, padding)
    if kernel.shape[2] < 16:  # few channels: one product over all taps
        taps = jnp.split(g @ kernel.reshape(-1, kernel.shape[-1]).T, kh * kw, -1)
        return _add_shifted(taps, x.shape, (kh, kw), strides, pads)
    if strides == (1, 1):
        # Written out, because XLA brings only convolutions outside of loops into the
        # form that it is fast at: within a scan this is 4 times as fast.
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _conv(
            g,
            turned,
            strides,
            [
                (k - 1 - low, k - 1 - high)
                for k, (low, high) in zip((kh, kw), pads, strict=True)
            ],
        )
    taps = (g @ kernel[i // kw, i % kw].T for i in range(kh * kw))
    return _add_shifted(taps, x.shape, (kh, kw), strides, pads)


def _kernel_gradient(x, kernel, g, strides, padding):
    return jax.vjp(lambda k: _conv(x, k, strides, padding), kernel)[1](g)[0]


def _kernel_gradient_cpu(x, kernel, g, strides, padding):
    kh, kw, c_in, c_out = kernel.shape
    square = kh == kw > 1 and strides == (1, 1) and padding == "SAME"
    if square and g.shape[1] < 64:
        return _kernel_gradient(x, kernel, g, strides, padding)
    # Otherwise a product per kernel tap is up to 4 times as fast as XLA's convolution,
    # whose window is as large as the image.
    pads = _explicit_padding(x.shape, kernel.shape, strides, padding)
    flat_g = g.reshape(-1, c_out)
    taps = _shifted(x, (kh, kw), strides, pads, g.shape[1:3])
    grads = [
        lax.dot_general(tap.reshape(-1, c_in), flat_g, (((0,), (0,)), ((), ())))
        for tap in taps
    ]
    return jnp.stack(grads).reshape(kernel.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x, kernel, strides=(1, 1), padding="SAME"):
    """Cross-correlates images with a kernel, as `lax.conv_general_dilated` does.

    Args:
      x: images [N, H, W, C].
      kernel: [kernel height, kernel width, C, features].
      strides: (vertical, horizontal).
      padding: 'SAME' or 'VALID'.

    Returns:
      [N, H', W', features].

    Raises:
      ValueError: for another padding.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, k: _forward_cpu(x, k, strides, padding),
        default=lambda x, k: _conv(x, k, strides, padding),
    )


def _conv2d_fwd(x, kernel, strides, padding):
    return conv2d(x, kernel, strides, padding), (x, kernel)


def _conv2d_bwd(strides, padding, residuals, g):
    x, kernel = residuals
    if kernel.shape[:2] == (1, 1) and strides == (1, 1):
        dx = g @ kernel[0, 0].T
    else:
        dx = lax.platform_dependent(
            x,
            kernel,
            g,
            cpu=lambda x, k, g: _input_gradient_cpu(x, k, g, strides, padding),
            default=lambda x, k, g: _input_gradient(x, k, g, strides, padding),
        )
    dk = lax.platform_dependent(
        x,
        kernel,
        g,
        cpu=lambda x, k, g: _kernel_gradient_cpu(x, k, g, strides, padding),
        default=lambda x, k, g: _kernel_gradient(x, k, g, strides, padding),
    )
    return dx, dk


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def _windows(x, window, stride):
    """Yields for each of the `window`**2 places in a pooling window its pixels."""
    out_size = [(size - window) // stride + 1 for size in x.shape[1:3]]
    return _shifted(x, (window, window), (stride, stride), _NO_PADDING, out_size)


def _max_pool(x, window, stride):
    return nn.max_pool(x, (window, window), (stride, stride), "VALID")


def _max_pool_gradient(x, y, g, window, stride):
    return jax.vjp(lambda x: _max_pool(x, window, stride), x)[1](g)[0]


def _max_pool_gradient_cpu(x, y, g, window, stride):
    # The first maximum of a window receives its gradient, as in XLA's
    # select-and-scatter, which runs one element at a time on a CPU: this is 4 times as
    # fast.
    taps, taken = [], jnp.zeros(y.shape, bool)
    for pixels in _windows(x, window, stride):
        first = (pixels == y) & ~taken
        taken = taken | first
        taps.append(jnp.where(first, g, jnp.zeros((), g.dtype)))
    return _add_shifted(taps, x.shape, (window, window), (stride, stride), _NO_PADDING)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x, window, stride):
    """Maximum over square windows, without padding: [N, H, W, C] -> [N, H', W', C]."""
    return lax.platform_dependent(
        x,
        cpu=lambda x: functools.reduce(jnp.maximum, _windows(x, window, stride)),
        default=lambda x: _max_pool(x, window, stride),
    )


def _max_pool_fwd(x, window, stride):
    y = max_pool(x, window, stride)
    return y, (x, y)


def _max_pool_bwd(window, stride, residuals, g):
    return (
        lax.platform_dependent(
            *residuals,
            g,
            cpu=lambda *args: _max_pool_gradient_cpu(*args, window, stride),
            default=lambda *args: _max_pool_gradient(*args, window, stride),
        ),
    )


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _standard_window_sum(x, window):
    return nn.pool(x, 0.0, lax.add, (window, window), (1, 1), "SAME")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _window_sum(x, window):
    """Sum over the square window around each pixel, [N, H, W, C]; `window` is odd."""
    size, pads = (window, window), ((window // 2, window // 2),) * 2
    return lax.platform_dependent(
        x,
        cpu=lambda x: sum(_shifted(x, size, (1, 1), pads, x.shape[1:3])),
        default=lambda x: _standard_window_sum(x, window),
    )


# It is its own transpose. In gradients XLA would write the shifted sum into the loops
# that use it, over and over; the standard one it keeps apart.
_window_sum.defvjp(
    lambda x, window: (_window_sum(x, window), None),
    lambda window, _, g: (_standard_window_sum(g, window),),
)


def average_pool(x, window, count_include_pad=False):
    """Mean over the square window around each pixel, [N, H, W, C] -> [N, H, W, C].

    Args:
      x: images.
      window: side of the window, odd.
      count_include_pad: whether the zeros beyond the border are counted.
    """
    if count_include_pad:
        return _window_sum(x, window) / window**2
    counts = _window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype), window)
    return _window_sum(x, window) / counts
