"""Names for the values that modules return.

    outputs = name_outputs(module(x), "block1/conv")

A name is an equation of the jaxpr that JAX traces. It does not change the value. The
module `taps` reads named values, and adds to them.
"""

import collections
import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
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

# JAX sorts the keys of these dicts.
_SORTED = (dict, collections.defaultdict, FrozenDict)


def name_outputs(
    outputs: Any, name: str, skip: Callable[[Any], bool] = lambda value: False
) -> Any:
    """Name the arrays of floats that a module returns, and return the outputs.

    A single array is called `name`. Arrays of a tuple or a dict have names such as
    `name[0]` or `name['logits']`. Axes of `jax.vmap` come first, from the outermost to
    the innermost.

    Args:
      outputs: a pytree. Its dicts keep the order of their keys.
      name: name of the module.
      skip: returns whether a value of the pytree has no names inside.

    Example:
      >>> closed = jax.make_jaxpr(lambda x: name_outputs((x, 2 * x), "block"))(1.0)
      >>> [equation.params.get("name") for equation in closed.eqns]
      [None, 'block[0]', 'block[1]']
    """

    def is_leaf(value):
        return type(value) in _SORTED or skip(value)

    def name_leaf(path, value):
        if skip(value):
            return value
        inner = name + jax.tree_util.keystr(path)
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact):
            return _name.bind(value, name=inner)
        if type(value) in _SORTED:
            named = {
                key: name_outputs(item, f"{inner}[{key!r}]", skip)
                for key, item in value.items()
            }
            if isinstance(value, FrozenDict):
                return FrozenDict(named)
            result = copy.copy(value)
            result.update(named)
            return result
        return value

    return jax.tree_util.tree_map_with_path(name_leaf, outputs, is_leaf=is_leaf)


def interceptor(path: Callable[[Any], str]) -> Callable[..., Any]:
    """Return a new interceptor of methods, which names what `__call__` returns.

    Linen and Haiku call an interceptor for each method of a module. The names are those
    of the outermost call: `super().__call__` is a part of it.

    Args:
      path: returns the name of a module, or "" for a module without names.
    """
    running = []

    def call_and_name(next_function, positional, keywords, context):
        is_call = context.method_name == "__call__"
        name = path(context.module) if is_call else ""
        if not name or name in running:
            return next_function(*positional, **keywords)
        running.append(name)
        try:
            outputs = next_function(*positional, **keywords)
        finally:
            running.pop()
        return name_outputs(outputs, name)

    return call_and_name
