"""Speed of the convolutions of a network: XLA's, and this package's forms for CPUs.

table = measure("inception_v3", batch_size=16, size=224, rounds=3)
print(text(table))
"""

import collections
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from seeflower_jax import models
from seeflower_jax.models.ops import conv2d

# (shape of the images, shape of the kernel, strides, 'SAME' or 'VALID')
Shape: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, int], str]

PASSES = ("forward", "input_gradient", "kernel_gradient")
DTYPES = ("float32", "bfloat16")
_PEAK = 2048  # side of the matrices whose product shows the largest speed


def _xla(x, kernel, strides, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout
    )


FORMS = {"xla": _xla, "seeflower_jax": conv2d}


def measure(model: str, batch_size: int, size: int, rounds: int) -> dict:
    """Measure the convolutions of a network on random images and kernels.

    Args:
      model: name of the network.
      batch_size: number of images in a batch.
      size: side of the network's images in pixels.
      rounds: number of timed calls. All forms of a convolution take turns, and the
        fastest call counts, because other load on the machine only slows calls down.

    Returns:
      {'convolutions', 'gflop', 'seconds', 'product_gflops'}. `convolutions` has a row
      for each distinct convolution, with its shapes, its `count` in the network, and
      the GFLOP/s of each pass by form and dtype. `gflop` and `seconds` add up all
      convolutions of the network: the operations of one pass, and the time by pass,
      form and dtype. `product_gflops` has the GFLOP/s of a product of large matrices by
      dtype, which the convolutions cannot exceed by much.
    """
    shapes = _convolutions(model, batch_size, size)
    rows = []
    totals: dict[tuple[str, str, str], float] = collections.defaultdict(float)
    for shape, count in sorted(shapes.items()):
        x, kernel, strides, padding = shape
        row = {"image": x[1:], "kernel": kernel, "strides": strides, "count": count}
        for name in PASSES:
            seconds = _fastest(_calls(shape, name), rounds)
            row[name] = {
                f"{form}_{dtype}": _flops(shape) / 1e9 / value
                for (form, dtype), value in seconds.items()
            }
            for (form, dtype), value in seconds.items():
                totals[name, form, dtype] += count * value
        rows.append(row)
    return {
        "convolutions": rows,
        "gflop": sum(count * _flops(shape) for shape, count in shapes.items()) / 1e9,
        "seconds": {
            name: {
                f"{form}_{dtype}": totals[name, form, dtype]
                for form, dtype in itertools.product(FORMS, DTYPES)
            }
            for name in PASSES
        },
        "product_gflops": _product_gflops(rounds),
    }


def text(table: Mapping) -> str:
    """Format the seconds of all convolutions of the network, by pass and form.

    The last row has the time of as many operations in products of large matrices.
    """
    names = list(table["seconds"][PASSES[0]])
    lines = [f"{'seconds':18}" + "".join(f"{name:>24}" for name in names)]
    for name, seconds in table["seconds"].items():
        cells = "".join(f"{seconds[key]:24.3f}" for key in names)
        lines.append(f"{name:18}{cells}")
    bounds = [
        table["gflop"] / table["product_gflops"][name.rpartition("_")[2]]
        for name in names
    ]
    lines.append(f"{'matrix product':18}" + "".join(f"{x:24.3f}" for x in bounds))
    return "\n".join(lines)


def _convolutions(model: str, batch_size: int, size: int) -> collections.Counter[Shape]:
    """Return how often a network applies each convolution."""
    spec = models.get_spec(model, num_classes=102)
    images = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
    network = functools.partial(models.apply, spec)
    jaxpr = jax.make_jaxpr(network)(models.shapes(spec), images).jaxpr
    return collections.Counter(_find(jaxpr))


def _find(jaxpr: Any) -> Iterator[Shape]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "convolution":
            x, kernel = (variable.aval.shape for variable in equation.invars)
            windows = equation.params["windows"]
            padding = "SAME" if any(map(any, windows.padding)) else "VALID"
            yield x, kernel, windows.strides, padding
        for inner in core.jaxprs_in_params(equation.params):
            yield from _find(inner)


def _flops(shape: Shape) -> int:
    """Return the floating-point operations of a pass of a convolution."""
    x, kernel, strides, padding = shape
    outputs = jax.eval_shape(
        functools.partial(_xla, strides=strides, padding=padding),
        jax.ShapeDtypeStruct(x, jnp.float32),
        jax.ShapeDtypeStruct(kernel, jnp.float32),
    )
    return 2 * math.prod(outputs.shape[:3]) * math.prod(kernel)


def _calls(shape: Shape, name: str) -> dict[tuple[str, str], Callable[[], Any]]:
    """Return a compiled call of a pass for each form and dtype."""
    x_shape, kernel_shape, strides, padding = shape
    generator = np.random.default_rng(0)
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for (form, convolve), dtype in itertools.product(FORMS.items(), DTYPES):
        function = functools.partial(convolve, strides=strides, padding=padding)
        x = jnp.asarray(generator.standard_normal(x_shape), dtype)
        kernel = jnp.asarray(generator.standard_normal(kernel_shape), dtype)
        run, arrays = _pass(name, function, x, kernel)
        calls[form, dtype] = functools.partial(jax.jit(run), *arrays)
    return calls


def _pass(name: str, convolve: Callable, x: jax.Array, kernel: jax.Array):
    """Return the function of a pass, and its arrays."""
    if name == "forward":
        return convolve, (x, kernel)
    g = jnp.ones_like(jax.eval_shape(convolve, x, kernel))

    def input_gradient(kernel, g):
        return jax.linear_transpose(lambda x: convolve(x, kernel), x)(g)

    def kernel_gradient(x, g):
        return jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(g)

    if name == "input_gradient":
        return input_gradient, (kernel, g)
    return kernel_gradient, (x, g)


def _product_gflops(rounds: int) -> dict[str, float]:
    """Return the GFLOP/s of a product of large matrices, by dtype."""

    def multiply(a, b):
        return lax.dot(a, b, preferred_element_type=jnp.float32)

    calls = {}
    for dtype in DTYPES:
        a = jnp.ones((_PEAK, _PEAK), dtype)
        calls[dtype] = functools.partial(jax.jit(multiply), a, a)
    seconds = _fastest(calls, rounds)
    return {dtype: 2 * _PEAK**3 / 1e9 / value for dtype, value in seconds.items()}


def _fastest(calls: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Return the smallest time of each call in seconds, after one other call."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(1 + rounds):
        for key, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[key].append(time.perf_counter() - started)
    return {key: min(values[1:]) for key, values in times.items()}
