"""The paper's baseline of two convolutions on 32 x 32 pixels (Qu 2018, figure 4.2).

    model = Baseline()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    endpoints = model.apply(variables, images)   # images in [0, 1]

The paper's classifier is `Classifier` with pooling 'flatten' and hidden (1024,).
Dropout is active when `apply` gets a random key `dropout`.
"""

import flax.linen as nn
import jax.numpy as jnp

from seeflower_jax.models import ops
from seeflower_jax.models.layers import (
    Conv,
    Endpoints,
    Features,
    Taps,
    recorder,
)


class Baseline(nn.Module):
    """Compute all layers up to the second pooling; returns {endpoint: [n, h, w, c]}.

    Attributes:
      features: channels of each convolution.
      width: factor on the number of channels; 1 is the paper's network.
      dropout: rate after each pooling.
      dtype: dtype of the computation; parameters are float32.
    """

    features: tuple[int, ...] = (16, 32)
    width: float = 1.0
    dropout: float = 0.25
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features, taps: Taps | None = None) -> Endpoints:
        endpoints, end = recorder(taps)
        x = x.astype(self.dtype)
        dropout = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        for block, features in enumerate(self.features, start=1):
            conv = Conv(
                max(1, round(features * self.width)),
                (3, 3),
                use_bias=True,
                dtype=self.dtype,
                name=f"conv{block}",
            )
            x = end(f"conv{block}", nn.relu(conv(x)))
            x = end(f"pool{block}", dropout(ops.max_pool(x, 2, 2)))
        return endpoints
