"""Make JAX primitives with one form for CPUs and a standard form for other platforms.

    convolution = bilinear_primitive("convolution", standard, cpu, axes)
    y = convolution.bind(x, kernel, windows=windows)

The form is chosen when a primitive is lowered, so one traced function serves all
platforms. The derivatives of a primitive are primitives too, so that derivatives of
every order, in forward and reverse mode, use the fast forms. All arrays have four axes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from seeflower_jax.models.windows import Windows

# form(*arrays, windows=windows) -> array
Form = Callable[..., Array]
_standard_forms: dict[Primitive, Form] = {}


def standard_form(primitive: Primitive) -> Form | None:
    """Return the standard form of a primitive; None if this module did not make it."""
    return _standard_forms.get(primitive)


def _fix(form: Form, windows: Windows) -> Form:
    return functools.partial(form, windows=windows)


def _is_empty(form: Form, *arrays: Any) -> bool:
    """Return whether an array or the result has no values, for arrays or their shapes.

    The forms for CPUs divide by sizes and count positions, so they need values.
    """
    return any(0 in x.shape for x in (*arrays, jax.eval_shape(form, *arrays)))


def _choose(standard: Form, cpu: Form, *arrays: Array) -> Array:
    if _is_empty(standard, *arrays):
        return standard(*arrays)
    return lax.platform_dependent(*arrays, cpu=cpu, default=standard)


def compute_once(function: Callable, *arrays: Array) -> Any:
    """Return `function(*arrays)`, or zeros if the last array is zero.

    On CPUs, XLA may compute arrays again for each use, in the loop that uses them. It
    computes the operands and the results of a condition once. It removes
    `lax.optimization_barrier` before it decides, so that would not help.
    """

    def skip(*arrays):
        shapes = jax.eval_shape(function, *arrays)
        return jax.tree.map(jnp.zeros_like, shapes)

    return lax.cond(jnp.any(arrays[-1] != 0), function, skip, *arrays)


def vary_alike(*arrays: Array) -> list[Array]:
    """Let arrays vary over the same axes of `jax.shard_map`, as JAX's operations do."""
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*axes)
    return [
        lax.pcast(array, tuple(union - varying), to="varying")
        for array, varying in zip(arrays, axes, strict=True)
    ]


def _primitive(name: str, standard: Form, cpu: Form, one_cpu: Form) -> Primitive:
    primitive = Primitive(name)
    _standard_forms[primitive] = standard

    def shape(*avals, windows: Windows):
        # The type has a sharding, and the axes of `jax.shard_map` that it varies over.
        (result,) = jax.make_jaxpr(_fix(standard, windows))(*avals).out_avals
        return result

    @functools.partial(jax.jit, static_argnames="windows")
    def evaluate(*arrays, windows: Windows):
        return _choose(_fix(standard, windows), _fix(cpu, windows), *arrays)

    def lower_on_cpu(context, *arrays, windows: Windows):
        axes = context.module_context.axis_context
        form = one_cpu if getattr(axes, "num_devices", None) == 1 else cpu
        if _is_empty(_fix(standard, windows), *context.avals_in):
            form = standard
        rule = mlir.lower_fun(form, multiple_results=False)
        # Without shardings: forms reshape and loop over split images, which the types
        # of a mesh with explicit axes forbid.
        types = [ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
        return rule(context.replace(avals_in=types), *arrays, windows=windows)

    primitive.def_abstract_eval(shape)
    primitive.def_impl(evaluate)
    lower = mlir.lower_fun(standard, multiple_results=False)
    mlir.register_lowering(primitive, lower)
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    return primitive


def bilinear_primitive(
    name: str,
    standard: Form,
    cpu: Form,
    shared_axes: tuple[tuple[int, int], tuple[int, int]],
) -> Primitive:
    """Return a primitive of two arrays; `ad.defbilinear` defines its derivatives.

    `jax.vmap` over one of the arrays folds the batch into an axis that only this array
    and the result have. `jax.vmap` over both arrays maps both forms.

    Args:
      name: the name of the primitive in jaxprs.
      standard: the function in XLA operations that fit every platform.
      cpu: the same function in operations that are fast in XLA's CPU backend. The
        argument `one_device` is True where a loop over the images is possible without
        moving them between devices.
      shared_axes: for each array, the axis of the fold as (array's axis, result's
        axis).
    """
    one_cpu = functools.partial(cpu, one_device=True)
    primitive = _primitive(name, standard, cpu, one_cpu)

    def batch(arrays, dims, *, windows: Windows):
        if None not in dims:
            mapped_standard = jax.vmap(_fix(standard, windows), dims)
            mapped_cpu = jax.vmap(_fix(cpu, windows), dims)
            return _choose(mapped_standard, mapped_cpu, *arrays), 0
        mapped = 1 - dims.index(None)
        axis, result_axis = shared_axes[mapped]
        folded = list(arrays)
        folded[mapped], sizes = _fold(arrays[mapped], dims[mapped], axis)
        result = primitive.bind(*folded, windows=windows)
        return _unfold(result, result_axis, sizes), result_axis

    batching.primitive_batchers[primitive] = batch
    return primitive


def pooling_primitive(name: str, standard: Form, cpu: Form) -> Primitive:
    """Return a primitive of arrays that all have the images in axis 0.

    `jax.vmap` folds the batch into that axis.

    Args:
      name: the name of the primitive in jaxprs.
      standard: the function in XLA operations that fit every platform.
      cpu: the same function in operations that are fast in XLA's CPU backend.
    """
    primitive = _primitive(name, standard, cpu, cpu)

    def batch(arrays, dims, *, windows: Windows):
        pairs = list(zip(arrays, dims, strict=True))
        (count, *_) = (array.shape[dim] for array, dim in pairs if dim is not None)
        folded, sizes = zip(
            *(
                _fold(jnp.broadcast_to(array, (count, *array.shape)), 0, 0)
                if dim is None
                else _fold(array, dim, 0)
                for array, dim in pairs
            ),
            strict=True,
        )
        return _unfold(primitive.bind(*folded, windows=windows), 0, sizes[0]), 0

    batching.primitive_batchers[primitive] = batch
    return primitive


def _fold(array: Array, dim: int, axis: int) -> tuple[Array, tuple[int, int]]:
    """Merge the batch axis `dim` into `axis`, which is counted without `dim`.

    Returns:
      The array, and the sizes of both axes.
    """
    array = jnp.moveaxis(array, dim, axis)
    before, (count, size), after = (
        array.shape[:axis],
        array.shape[axis : axis + 2],
        array.shape[axis + 2 :],
    )
    return array.reshape(*before, count * size, *after), (count, size)


def _unfold(array: Array, axis: int, sizes: tuple[int, int]) -> Array:
    """Split `axis` into a batch axis and the original axis, which have these sizes."""
    return array.reshape(*array.shape[:axis], *sizes, *array.shape[axis + 1 :])


def define_linear(primitive: Primitive, transpose: Form, arrays: int = 1) -> None:
    """Define the derivatives of a primitive that is linear in its last array.

    The derivatives with respect to the other arrays are defined as zero.

    Args:
      primitive: the primitive.
      transpose: gets the other arrays and the cotangent of the result; returns the
        cotangent of the last array.
      arrays: the number of arrays.
    """
    others = [None] * (arrays - 1)

    def differentiate(tangent, *primals, windows: Windows):
        return primitive.bind(*primals[:-1], tangent, windows=windows)

    def transpose_rule(cotangent, *primals, windows: Windows):
        return [*others, transpose(*primals[:-1], cotangent, windows=windows)]

    ad.deflinear2(primitive, transpose_rule)
    # `deflinear2` assumes that the primitive is linear in all arrays. `defjvp` replaces
    # its rule for derivatives.
    ad.defjvp(primitive, *others, differentiate)
