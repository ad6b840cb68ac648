"""Count the floating-point operations of a function, without a device.

    count(jax.jit(network).trace(images).jaxpr)

Convolutions and products of matrices are counted; a network computes little else. The
count does not depend on how a device computes them. XLA reports its own count for CUDA
and TPUs only after a second compilation.
"""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

from seeflower_jax.models.primitives import standard_form


def count(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Return the operations of a jaxpr; a multiplication and its addition are two.

    A `scan` counts all of its steps, a `while` loop a single step, and a condition its
    largest branch.

    Example:
      >>> a, b = jax.numpy.zeros((2, 3)), jax.numpy.zeros((3, 4))
      >>> count(jax.make_jaxpr(jax.numpy.dot)(a, b))
      48
    """
    return sum(map(_count, jaxpr.eqns))


def _count(eqn: JaxprEqn) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        return _product(eqn)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if form := standard_form(eqn.primitive):
        function = functools.partial(form, **eqn.params)
        return count(jax.make_jaxpr(function)(*map(_array, eqn.invars)))
    inner = [count(jaxpr) for jaxpr in jaxprs_in_params(eqn.params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (eqn.params["length"] if name == "scan" else 1)


def _array(variable: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and the type of a variable or of a literal."""
    return jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)


def _product(eqn: JaxprEqn) -> int:
    """Return the operations of a product of matrices."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs, out = _array(eqn.invars[0]).shape, _array(eqn.outvars[0]).shape
    return 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    """Return the operations of a convolution, without products with added zeros."""
    lhs, rhs, out = (_array(x).shape for x in (*eqn.invars, *eqn.outvars))
    numbers = eqn.params["dimension_numbers"]
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    channels = rhs[numbers.rhs_spec[1]]  # of a group
    keys = "window_strides", "padding", "lhs_dilation", "rhs_dilation"
    products = [
        _products((lhs[i], rhs[k], out[o]), *geometry)
        for i, k, o, *geometry in zip(
            numbers.lhs_spec[2:],
            numbers.rhs_spec[2:],
            numbers.out_spec[2:],
            *(eqn.params[key] for key in keys),
            strict=True,
        )
    ]
    return 2 * batch * features * channels * math.prod(products)


def _products(
    sizes: tuple[int, int, int],
    stride: int,
    padding: tuple[int, int],
    spread: int,
    dilation: int,
) -> int:
    """Return the number of products of a pixel and a tap along an axis.

    Args:
      sizes: sizes of the image, the kernel and the result.
      stride: distance between neighbouring windows.
      padding: numbers of zeros before and after the image.
      spread: distance between neighbouring pixels, with zeros between them.
      dilation: distance between neighbouring taps.
    """
    pixels, taps, outputs = sizes
    windows = np.arange(outputs)[:, None] * stride - padding[0]
    places = windows + np.arange(taps) * dilation
    inside = (places >= 0) & (places <= (pixels - 1) * spread)
    return int((inside & (places % spread == 0)).sum())
