"""VGG16 and VGG19 (Simonyan and Zisserman 2015, arXiv:1409.1556), configurations D, E.

    model = VGG((2, 2, 3, 3, 3))    # VGG16
    variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    endpoints = model.apply(variables, images)   # images BGR, minus the channel means

The endpoints have Keras' names, `block1_conv1` ... `block5_pool`. The endpoint of a
convolution is the output of its ReLU.
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

VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)


def conv_names(convs: tuple[int, ...]) -> list[str]:
    """Return the names of all convolutions, starting with `block1_conv1`."""
    return [
        f"block{block}_conv{number}"
        for block, count in enumerate(convs, start=1)
        for number in range(1, count + 1)
    ]


class VGG(nn.Module):
    """Compute all layers up to `block5_pool`; returns {endpoint: [n, h, w, c]}.

    Attributes:
      convs: number of convolutions in each block.
      width: factor on the number of channels; 1 is the published network.
      dtype: dtype of the computation; parameters are float32.
    """

    convs: tuple[int, ...] = VGG16
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features, taps: Taps | None = None) -> Endpoints:
        endpoints, end = recorder(taps)
        x = x.astype(self.dtype)
        for block, count in enumerate(self.convs, start=1):
            features = max(1, round(min(32 * 2**block, 512) * self.width))
            for number in range(1, count + 1):
                name = f"block{block}_conv{number}"
                conv = Conv(
                    features, (3, 3), use_bias=True, dtype=self.dtype, name=name
                )
                x = end(name, nn.relu(conv(x)))
            x = end(f"block{block}_pool", ops.max_pool(x, 2, 2))
        return endpoints
