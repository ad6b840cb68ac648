"""A small network that a CPU trains in a minute.

    model = Small()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    endpoints = model.apply(variables, images)   # images in [-1, 1]

Five convolutions with batch normalisation, `block1` to `block5`; each of the first
three halves the side.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from seeflower_jax.models import ops
from seeflower_jax.models.layers import ConvBN, recorder


class Small(nn.Module):
    """All layers below the head; returns a dict of endpoints [N, H, W, C].

    Args:
      features: channels of each block.
      width: factor on them.
      epsilon, use_scale: of the batch normalisations.
      act: the activation function.
      dtype: of the computation; parameters are float32.
    """

    features: tuple[int, ...] = (24, 32, 64, 128, 128)
    width: float = 1.0
    epsilon: float = 1e-3
    use_scale: bool = True
    act: Callable = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, taps=None):
        endpoints, end = recorder(taps)
        x = x.astype(self.dtype)
        for block, features in enumerate(self.features, start=1):
            x = ConvBN(
                max(1, round(features * self.width)),
                (3, 3),
                strides=(2, 2) if block == 1 else (1, 1),
                epsilon=self.epsilon,
                use_scale=self.use_scale,
                momentum=0.9,  # it is trained in few steps
                act=self.act,
                dtype=self.dtype,
                name=f"block{block}",
            )(x)
            if block in (2, 3):
                x = ops.max_pool(x, 2, 2)
            x = end(f"block{block}", x)
        return endpoints
