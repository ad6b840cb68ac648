"""Convolution and pooling that are also fast on a CPU.

    y = conv2d(x, kernel, strides=(2, 2), padding="VALID")
    y = max_pool(y, window=3, stride=2)

Every function computes the standard operation, with derivatives of every order in
forward and reverse mode. On a GPU or TPU it is the standard XLA operation. XLA's CPU
backend is fast only for some shapes. On a CPU, the functions therefore compute the same
sums in forms that are fast on a CPU. The form is chosen when a function is lowered.
"""

from seeflower_jax.models.convolution import conv2d
from seeflower_jax.models.pooling import average_pool, max_pool

__all__ = ["average_pool", "conv2d", "max_pool"]
