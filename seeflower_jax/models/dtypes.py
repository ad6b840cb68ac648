"""Dtypes to compute in.

x = as_float(images)    # float32, or float64 for float64
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype for sums and heads: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def as_float(array: ArrayLike) -> Array:
    """Return an array in at least float32.

    Example:
      >>> as_float(jnp.ones(2, "uint8")).dtype.name
      'float32'
    """
    array = jnp.asarray(array)
    return array.astype(at_least_float32(array.dtype))


def check_dtype(name: str) -> jnp.dtype:
    """Return the dtype of a name.

    Raises:
      ValueError: if JAX would compute in another dtype.
    """
    dtype = jnp.dtype(name)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"dtype {name!r} needs JAX's 64-bit mode; set the environment variable "
            "JAX_ENABLE_X64=1, or use 'float32'"
        )
    return dtype
