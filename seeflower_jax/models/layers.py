"""Layers that networks share.

endpoints, end = recorder(taps)
x = end("block1", ConvBN(32, (3, 3), name="block1")(x))
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import dtypes
from jaxtyping import Array, Float

from seeflower_jax.models import ops
from seeflower_jax.models.dtypes import at_least_float32

Features = Float[Array, "n h w c"]
Taps = Mapping[str, Features]
Endpoints = dict[str, Features]


def recorder(taps: Taps | None) -> tuple[Endpoints, Callable[[str, Array], Array]]:
    """Return (endpoints, end), which collect the outputs of named blocks.

    `end(name, x)` adds the tap `name` to `x`, writes the sum to the dict `endpoints`
    and returns the sum.

    Args:
      taps: {endpoint name: array}, or None.
    """
    taps, endpoints = taps or {}, {}

    def end(name: str, x: Features) -> Features:
        if name in taps:
            x = x + taps[name].astype(x.dtype)
        endpoints[name] = x
        return x

    return endpoints, end


class Conv(nn.Module):
    """Convolve by `ops.conv2d`; kernel [h, w, c, features], bias [features].

    Attributes:
      features: number of output channels.
      kernel_size: (height, width).
      strides: (vertical, horizontal).
      padding: 'SAME' or 'VALID'.
      use_bias: whether a bias is added.
      dtype: dtype of the computation; parameters are float32.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x, kernel = dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        x = ops.conv2d(x, kernel, self.strides, self.padding)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # The gradient of the bias is a sum, which GPUs would compute in bfloat16.
        dtype = at_least_float32(x.dtype)
        return (x.astype(dtype) + bias.astype(dtype)).astype(x.dtype)


class ConvBN(nn.Module):
    """Convolve, normalise the batch, apply ReLU.

    If the collection `batch_stats` is mutable, the layer normalises by the statistics
    of the batch and updates the running statistics. If not, `apply` is the pure
    inference function.

    Attributes:
      features, kernel_size, strides, padding: options of the convolution, see `Conv`.
      epsilon: added to the variance.
      use_scale: whether the normalisation has a learned scale.
      momentum: momentum of the running statistics.
      dtype: dtype of the computation; parameters are float32.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    epsilon: float = 1e-3
    use_scale: bool = False
    momentum: float = 0.99
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
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
        return nn.relu(x)
