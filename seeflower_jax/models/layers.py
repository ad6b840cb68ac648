"""Layers that networks share."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import dtypes

from seeflower_jax.models import ops


def recorder(taps):
    """(endpoints, end): a dict, and end(name, x), which adds the tap `name` to x, notes
    the sum in the dict and returns it.

    Args:
      taps: {endpoint name: array}, or None.
    """
    taps, endpoints = taps or {}, {}

    def end(name, x):
        if name in taps:
            x = x + taps[name].astype(x.dtype)
        endpoints[name] = x
        return x

    return endpoints, end


class Conv(nn.Module):
    """Convolution through `ops.conv2d`; kernel [h, w, C, features], bias [features]."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x, kernel = dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        x = ops.conv2d(x, kernel, self.strides, self.padding)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x + bias.astype(x.dtype)


class ConvBN(nn.Module):
    """Convolution, batch normalisation, activation.

    The normalisation uses and updates mini-batch statistics when `batch_stats` is
    mutable; otherwise `apply` is the pure inference function.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    epsilon: float = 1e-3
    use_scale: bool = False
    momentum: float = 0.99
    act: Callable = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not self.is_mutable_collection("batch_stats"),
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_scale=self.use_scale,
            dtype=self.dtype,
            name="bn",
        )(x)
        return self.act(x)
