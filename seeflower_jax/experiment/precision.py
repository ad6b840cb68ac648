"""Choose how the devices compute: types, precision, and the compilation cache.

with precision.of_products("tensorfloat32"):
    dtype = precision.resolve("auto")       # "bfloat16" on accelerators
"""

import contextlib
import dataclasses

import jax

DTYPES = ("float32", "bfloat16", "auto")
DEFAULT = "default"
OF_PRODUCTS = (DEFAULT, "tensorfloat32", "float32")


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """How the devices compute.

    Attributes:
      matmul_precision: precision of matrix products and convolutions in float32, one of
        `OF_PRODUCTS`.
      compilation_cache: whether compiled functions are kept for the next process.
    """

    matmul_precision: str
    compilation_cache: bool


def resolve(dtype: str) -> str:
    """Return the type that a name of `DTYPES` stands for on these devices."""
    if dtype != "auto":
        return dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def of_products(name: str) -> contextlib.AbstractContextManager:
    """Return a context with a precision of `OF_PRODUCTS` for float32.

    JAX compiles a function for each precision of a context that calls it. CPUs always
    compute in float32. 'default' changes nothing: JAX uses TensorFloat-32 on NVIDIA
    GPUs since Ampere, unless JAX_DEFAULT_MATMUL_PRECISION is set.
    """
    if name == DEFAULT:
        return contextlib.nullcontext()
    return jax.default_matmul_precision(name)
