"""A new network: residual blocks below the head of all networks.

config.model = {"name": "residual", "dropout": 0.2, "dtype": "float32"}
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from seeflower_jax import models
from seeflower_jax.models import ops
from seeflower_jax.models.layers import ConvBN, recorder


class Residual(nn.Module):
    """Compute all layers below the head; returns a dict of endpoints [N, H, W, C]."""

    features: tuple[int, ...] = (16, 32, 64)
    width: float = 1.0
    epsilon: float = 1e-3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, taps=None):
        endpoints, end = recorder(taps)  # for attribution at any layer
        for block, features in enumerate(self.features, start=1):
            conv = functools.partial(
                ConvBN,
                features=max(1, round(features * self.width)),
                kernel_size=(3, 3),
                epsilon=self.epsilon,
                use_scale=True,
                dtype=self.dtype,
            )
            x = conv(name=f"block{block}_a")(ops.max_pool(x, 2, 2))
            x = end(f"block{block}", x + conv(name=f"block{block}_b")(x))
        return endpoints


models.register(
    models.ModelSpec("residual", input_size=64, preprocess="tf", cam_layer="block3"),
    lambda spec, **options: Residual(epsilon=spec.epsilon, **options),
)
