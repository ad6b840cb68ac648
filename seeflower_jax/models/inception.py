"""Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567) as a Flax Linen module.

    model = InceptionV3()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    endpoints = model.apply(variables, images)   # images in [-1, 1]

Layers, padding and block outputs `mixed0` ... `mixed10` are the same as in the network
of Keras with ImageNet weights. The stem's endpoints have their TF-Slim names.
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

_ONE, _TWO = (1, 1), (2, 2)
_VALID = "VALID"

# Endpoint, channels, kernel, strides, padding; the pooling layers have only a name.
_STEM = (
    ("Conv2d_1a_3x3", 32, (3, 3), _TWO, _VALID),
    ("Conv2d_2a_3x3", 32, (3, 3), _ONE, _VALID),
    ("Conv2d_2b_3x3", 64, (3, 3)),
    ("MaxPool_3a_3x3",),
    ("Conv2d_3b_1x1", 80, (1, 1), _ONE, _VALID),
    ("Conv2d_4a_3x3", 192, (3, 3), _ONE, _VALID),
    ("MaxPool_5a_3x3",),
)


class InceptionV3(nn.Module):
    """Compute all layers up to `mixed10`; returns {endpoint: [n, h, w, c]}.

    Source: Szegedy et al. 2016, table 1.

    Attributes:
      width: factor on the number of channels; 1 is Inception-v3.
      epsilon: added to the variance in batch normalisation; Keras' weights need 1e-3.
      use_scale: whether batch normalisation has a scale; Keras' weights have none.
      count_include_pad: whether average pooling counts the padding. Keras' network does
        not count it, torchvision's network does.
      dtype: dtype of the computation; parameters are float32.
    """

    width: float = 1.0
    epsilon: float = 1e-3
    use_scale: bool = False
    count_include_pad: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features, taps: Taps | None = None) -> Endpoints:
        endpoints, end = recorder(taps)
        x = x.astype(self.dtype)
        for name, *layer in _STEM:
            x = self._conv(end, x, name, *layer) if layer else end(name, _halve(x))
        for block, pool in (("mixed0", 32), ("mixed1", 64), ("mixed2", 64)):
            x = end(block, self._block_35x35(end, x, block, pool))
        x = end("mixed3", self._reduce_to_17x17(end, x, "mixed3"))
        for block, c in (
            ("mixed4", 128),
            ("mixed5", 160),
            ("mixed6", 160),
            ("mixed7", 192),
        ):
            x = end(block, self._block_17x17(end, x, block, c))
        x = end("mixed8", self._reduce_to_8x8(end, x, "mixed8"))
        for block in ("mixed9", "mixed10"):
            x = end(block, self._block_8x8(end, x, block))
        return endpoints

    # `nowrap`: these methods make submodules of the compact method that calls them.

    @nn.nowrap
    def _conv(self, end, x, name, features, size, strides=_ONE, padding="SAME"):
        layer = ConvBN(
            max(1, round(features * self.width)),
            size,
            strides,
            padding,
            self.epsilon,
            self.use_scale,
            dtype=self.dtype,
            name=name,
        )
        return end(name, layer(x))

    @nn.nowrap
    def _branch(self, end, x, block, *layers):
        """Apply convolutions (name, channels, kernel, strides, padding) in sequence."""
        for name, *layer in layers:
            x = self._conv(end, x, f"{block}_{name}", *layer)
        return x

    @nn.nowrap
    def _pool_branch(self, end, x, block, features):
        average = ops.average_pool(x, 3, self.count_include_pad)
        return self._branch(end, average, block, ("branch_pool", features, (1, 1)))

    @nn.nowrap
    def _block_35x35(self, end, x, block, pool):
        """Compute a block of figure 5; its 5 x 5 convolution is not factorised."""
        branches = [
            self._branch(end, x, block, ("branch1x1", 64, (1, 1))),
            self._branch(
                end,
                x,
                block,
                ("branch5x5_1", 48, (1, 1)),
                ("branch5x5_2", 64, (5, 5)),
            ),
            self._branch(
                end,
                x,
                block,
                ("branch3x3dbl_1", 64, (1, 1)),
                ("branch3x3dbl_2", 96, (3, 3)),
                ("branch3x3dbl_3", 96, (3, 3)),
            ),
            self._pool_branch(end, x, block, pool),
        ]
        return jnp.concatenate(branches, -1)

    @nn.nowrap
    def _reduce_to_17x17(self, end, x, block):
        """Compute the reduction of figure 10 from 35 x 35 pixels."""
        # The order of the branches is the order in which their gradients are summed.
        y = self._branch(
            end,
            x,
            block,
            ("branch3x3dbl_1", 64, (1, 1)),
            ("branch3x3dbl_2", 96, (3, 3)),
        )
        branches = [
            self._branch(end, x, block, ("branch3x3", 384, (3, 3), _TWO, _VALID)),
            self._branch(end, y, block, ("branch3x3dbl_3", 96, (3, 3), _TWO, _VALID)),
            _halve(x),
        ]
        return jnp.concatenate(branches, -1)

    @nn.nowrap
    def _block_17x17(self, end, x, block, c):
        """Compute a block of figure 6, with n = 7."""
        branches = [
            self._branch(end, x, block, ("branch1x1", 192, (1, 1))),
            self._branch(
                end,
                x,
                block,
                ("branch7x7_1", c, (1, 1)),
                ("branch7x7_2", c, (1, 7)),
                ("branch7x7_3", 192, (7, 1)),
            ),
            self._branch(
                end,
                x,
                block,
                ("branch7x7dbl_1", c, (1, 1)),
                ("branch7x7dbl_2", c, (7, 1)),
                ("branch7x7dbl_3", c, (1, 7)),
                ("branch7x7dbl_4", c, (7, 1)),
                ("branch7x7dbl_5", 192, (1, 7)),
            ),
            self._pool_branch(end, x, block, 192),
        ]
        return jnp.concatenate(branches, -1)

    @nn.nowrap
    def _reduce_to_8x8(self, end, x, block):
        """Compute the reduction from 17 x 17 pixels."""
        branches = [
            self._branch(
                end,
                x,
                block,
                ("branch3x3_1", 192, (1, 1)),
                ("branch3x3_2", 320, (3, 3), _TWO, _VALID),
            ),
            self._branch(
                end,
                x,
                block,
                ("branch7x7x3_1", 192, (1, 1)),
                ("branch7x7x3_2", 192, (1, 7)),
                ("branch7x7x3_3", 192, (7, 1)),
                ("branch7x7x3_4", 192, (3, 3), _TWO, _VALID),
            ),
            _halve(x),
        ]
        return jnp.concatenate(branches, -1)

    @nn.nowrap
    def _block_8x8(self, end, x, block):
        """Compute a block of figure 7, with an expanded filter bank."""
        y = self._branch(end, x, block, ("branch3x3_1", 384, (1, 1)))
        z = self._branch(
            end,
            x,
            block,
            ("branch3x3dbl_1", 448, (1, 1)),
            ("branch3x3dbl_2", 384, (3, 3)),
        )
        branches = [
            self._branch(end, x, block, ("branch1x1", 320, (1, 1))),
            self._branch(end, y, block, ("branch3x3_2a", 384, (1, 3))),
            self._branch(end, y, block, ("branch3x3_2b", 384, (3, 1))),
            self._branch(end, z, block, ("branch3x3dbl_3a", 384, (1, 3))),
            self._branch(end, z, block, ("branch3x3dbl_3b", 384, (3, 1))),
            self._pool_branch(end, x, block, 192),
        ]
        return jnp.concatenate(branches, -1)


def _halve(x: Features) -> Features:
    return ops.max_pool(x, 3, 2)
