"""Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567) as a Flax Linen module.

    model = InceptionV3()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    endpoints = model.apply(variables, images)   # images in [-1, 1]

Layers, padding and block outputs `mixed0` ... `mixed10` are those of the network whose
ImageNet weights Keras publishes; stem endpoints have their TF-Slim names.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from seeflower_jax.models import ops
from seeflower_jax.models.layers import ConvBN, recorder


class InceptionV3(nn.Module):
    """All layers up to `mixed10`; returns a dict of endpoints [N, H, W, C].

    Args:
      width: factor on every layer's channels; 1 is Inception-v3.
      epsilon, use_scale: of the batch normalisations; Keras' weights have 1e-3, False.
      count_include_pad: whether 3x3 average pooling counts the padding at the border;
        Keras' weights were trained without, torchvision's network counts it.
      act: the activation function.
      dtype: of the computation; parameters are float32.
    """

    width: float = 1.0
    epsilon: float = 1e-3
    use_scale: bool = False
    count_include_pad: bool = False
    act: Callable = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, taps=None):
        endpoints, record = recorder(taps)
        x = x.astype(self.dtype)

        def conv(block, branch, features, size, strides=(1, 1), padding="SAME"):
            name = f"{block}/{branch}" if branch else block
            return ConvBN(
                max(1, round(features * self.width)),
                size,
                strides,
                padding,
                self.epsilon,
                self.use_scale,
                act=self.act,
                dtype=self.dtype,
                name=name.replace("/", "_"),
            )

        def chain(block, x, *layers):
            for branch, features, size in layers:
                x = conv(block, branch, features, size)(x)
            return x

        def end(name, x):
            return record(name, jnp.concatenate(x, -1) if isinstance(x, list) else x)

        def average(x):
            return ops.average_pool(x, 3, self.count_include_pad)

        def halve(x):
            return ops.max_pool(x, 3, 2)

        valid, two = "VALID", (2, 2)
        x = end("Conv2d_1a_3x3", conv("Conv2d_1a_3x3", "", 32, (3, 3), two, valid)(x))
        x = end(
            "Conv2d_2a_3x3", conv("Conv2d_2a_3x3", "", 32, (3, 3), (1, 1), valid)(x)
        )
        x = end("Conv2d_2b_3x3", conv("Conv2d_2b_3x3", "", 64, (3, 3))(x))
        x = end("MaxPool_3a_3x3", halve(x))
        x = end(
            "Conv2d_3b_1x1", conv("Conv2d_3b_1x1", "", 80, (1, 1), (1, 1), valid)(x)
        )
        x = end(
            "Conv2d_4a_3x3", conv("Conv2d_4a_3x3", "", 192, (3, 3), (1, 1), valid)(x)
        )
        x = end("MaxPool_5a_3x3", halve(x))

        for block, pool in (("mixed0", 32), ("mixed1", 64), ("mixed2", 64)):
            x = end(
                block,
                [
                    chain(block, x, ("branch1x1", 64, (1, 1))),
                    chain(
                        block,
                        x,
                        ("branch5x5_1", 48, (1, 1)),
                        ("branch5x5_2", 64, (5, 5)),
                    ),
                    chain(
                        block,
                        x,
                        ("branch3x3dbl_1", 64, (1, 1)),
                        ("branch3x3dbl_2", 96, (3, 3)),
                        ("branch3x3dbl_3", 96, (3, 3)),
                    ),
                    chain(block, average(x), ("branch_pool", pool, (1, 1))),
                ],
            )

        y = chain(
            "mixed3", x, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3))
        )
        x = end(
            "mixed3",
            [
                conv("mixed3", "branch3x3", 384, (3, 3), two, valid)(x),
                conv("mixed3", "branch3x3dbl_3", 96, (3, 3), two, valid)(y),
                halve(x),
            ],
        )

        for block, c in (
            ("mixed4", 128),
            ("mixed5", 160),
            ("mixed6", 160),
            ("mixed7", 192),
        ):
            x = end(
                block,
                [
                    chain(block, x, ("branch1x1", 192, (1, 1))),
                    chain(
                        block,
                        x,
                        ("branch7x7_1", c, (1, 1)),
                        ("branch7x7_2", c, (1, 7)),
                        ("branch7x7_3", 192, (7, 1)),
                    ),
                    chain(
                        block,
                        x,
                        ("branch7x7dbl_1", c, (1, 1)),
                        ("branch7x7dbl_2", c, (7, 1)),
                        ("branch7x7dbl_3", c, (1, 7)),
                        ("branch7x7dbl_4", c, (7, 1)),
                        ("branch7x7dbl_5", 192, (1, 7)),
                    ),
                    chain(block, average(x), ("branch_pool", 192, (1, 1))),
                ],
            )

        y = chain("mixed8", x, ("branch3x3_1", 192, (1, 1)))
        z = chain(
            "mixed8",
            x,
            ("branch7x7x3_1", 192, (1, 1)),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
        )
        x = end(
            "mixed8",
            [
                conv("mixed8", "branch3x3_2", 320, (3, 3), two, valid)(y),
                conv("mixed8", "branch7x7x3_4", 192, (3, 3), two, valid)(z),
                halve(x),
            ],
        )

        for block in ("mixed9", "mixed10"):
            y = chain(block, x, ("branch3x3_1", 384, (1, 1)))
            z = chain(
                block,
                x,
                ("branch3x3dbl_1", 448, (1, 1)),
                ("branch3x3dbl_2", 384, (3, 3)),
            )
            x = end(
                block,
                [
                    chain(block, x, ("branch1x1", 320, (1, 1))),
                    chain(block, y, ("branch3x3_2a", 384, (1, 3))),
                    chain(block, y, ("branch3x3_2b", 384, (3, 1))),
                    chain(block, z, ("branch3x3dbl_3a", 384, (1, 3))),
                    chain(block, z, ("branch3x3dbl_3b", 384, (3, 1))),
                    chain(block, average(x), ("branch_pool", 192, (1, 1))),
                ],
            )
        return endpoints
