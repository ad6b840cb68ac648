"""A small network that a CPU trains in a minute.

    model = Small()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    endpoints = model.apply(variables, images)   # images in [-1, 1]

The network has five convolutions with batch normalisation, `block1` to `block5`. Each
of the first three halves the side.
"""

import flax.linen as nn
import jax.numpy as jnp

from seeflower_jax.models import ops
from seeflower_jax.models.layers import (
    ConvBN,
    Endpoints,
    Features,
    Taps,
    recorder,
)


class Small(nn.Module):
    """Compute all layers below the head; returns {endpoint: [n, h, w, c]}.

    Attributes:
      features: channels of each block.
      width: factor on the number of channels.
      epsilon: added to the variance in batch normalisation.
      use_scale: whether batch normalisation has a learned scale.
      dtype: dtype of the computation; parameters are float32.
    """

    features: tuple[int, ...] = (24, 32, 64, 128, 128)
    width: float = 1.0
    epsilon: float = 1e-3
    use_scale: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features, taps: Taps | None = None) -> Endpoints:
        endpoints, end = recorder(taps)
        x = x.astype(self.dtype)
        for block, features in enumerate(self.features, start=1):
            x = ConvBN(
                max(1, round(features * self.width)),
                (3, 3),
                strides=(2, 2) if block == 1 else (1, 1),
                epsilon=self.epsilon,
                use_scale=self.use_scale,
                momentum=0.9,  # the network is trained in few steps
                dtype=self.dtype,
                name=f"block{block}",
            )(x)
            if block in (2, 3):
                x = ops.max_pool(x, 2, 2)
            x = end(f"block{block}", x)
        return endpoints
