"""A new network: residual blocks below the head of all networks.

config.model = {"name": "residual", "dropout": 0.2, "dtype": "float32"}
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from seeflower_jax import models
from seeflower_jax.models import ops
from seeflower_jax.models.layers import ConvBN, recorder


class Residual(nn.Module):
    """All layers below the head; returns a dict of endpoints [N, H, W, C]."""

    features: tuple[int, ...] = (16, 32, 64)
    width: float = 1.0
    epsilon: float = 1e-3
    act: Callable = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, taps=None):
        endpoints, end = recorder(taps)  # for attribution at any layer
        x = x.astype(self.dtype)
        same = {"epsilon": self.epsilon, "use_scale": True, "dtype": self.dtype}
        for block, features in enumerate(self.features, start=1):
            channels = max(1, round(features * self.width))
            conv = ConvBN(channels, (3, 3), act=self.act, name=f"block{block}_a", **same)
            x = conv(ops.max_pool(x, 2, 2))
            conv = ConvBN(channels, (3, 3), act=self.act, name=f"block{block}_b", **same)
            x = end(f"block{block}", x + conv(x))
        return endpoints


models.MODELS["residual"] = models.ModelSpec(
    "residual", input_size=64, batch_norm_scale=True, cam_layer="block3"
)
models.BACKBONES["residual"] = lambda spec, **common: Residual(
    epsilon=spec.epsilon, **common
)
