"""Names for the values that modules return.

    outputs = name_outputs(module(x), "block1/conv")

A name is an equation of the jaxpr that JAX traces. It does not change the value. The
module `taps` reads named values, and adds to them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir


def _batch_to_front(arguments, axes, *, name):
    """Name a value of `vmap` with the mapped axis first, wherever JAX has put it."""
    return _name.bind(jnp.moveaxis(arguments[0], axes[0], 0), name=name), 0


# Like the primitive of `jax.ad_checkpoint.checkpoint_name`, except under `vmap`.
_name = core.Primitive("name")
_name.def_impl(lambda value, *, name: value)
_name.def_abstract_eval(lambda value, *, name: value)
batching.primitive_batchers[_name] = _batch_to_front
ad.primitive_jvps[_name] = lambda primals, tangents, *, name: (
    _name.bind(*primals, name=name),
    *tangents,
)
mlir.register_lowering(_name, lambda context, value, *, name: [value])


def name_outputs(outputs: Any, name: str) -> Any:
    """Name the arrays of floats that a module returns, and return the outputs.

    A single array is called `name`. Arrays of a tuple or a dict have names such as
    `name[0]` or `name['logits']`. Axes of `jax.vmap` come first, from the outermost to
    the innermost.

    Example:
      >>> closed = jax.make_jaxpr(lambda x: name_outputs((x, 2 * x), "block"))(1.0)
      >>> [equation.params.get("name") for equation in closed.eqns]
      [None, 'block[0]', 'block[1]']
    """

    def name_leaf(path, value):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact):
            return _name.bind(value, name=name + jax.tree_util.keystr(path))
        return value

    return jax.tree_util.tree_map_with_path(name_leaf, outputs)
