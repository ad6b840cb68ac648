"""Named values of a computation: read them, and add arrays to them.

    def f(x):
        return 2 * checkpoint_name(x + 1, "sum")

    run(f, (1.0,), taps={"sum": jnp.array(3.0)})      # (10.0, {"sum": 5.0})

`run` traces a function to a jaxpr and evaluates the jaxpr equation by equation. It sees
through `jit`, `vmap`, `scan` and `checkpoint`, where a value that is stored on the side
would leak.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Shaped

from seeflower_jax import hints

# Primitives that evaluate their parameter `jaxpr`, under old and new names of JAX.
_CALLS = ("jit", "pjit", "remat2", "checkpoint")
# A longer scan is a loop over time or over chunks rather than over layers.
_MAX_STEPS = 128


def _batch_to_front(arguments, axes, *, name):
    """Name a value of `vmap` with the mapped axis first, wherever JAX has put it."""
    return _name.bind(jnp.moveaxis(arguments[0], axes[0], 0), name=name), 0


# As the primitive of `jax.ad_checkpoint.checkpoint_name`, except for `vmap`.
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

    A single array has the name itself. Arrays of a tuple or a dict have names such as
    `name[0]` or `name['logits']`. Axes of `jax.vmap` come first, the outermost one
    before the others.

    Example:
      >>> f = lambda x: name_outputs((x, 2 * x), "block")
      >>> list(run(f, (1.0,), {})[1])
      ['block[0]', 'block[1]']
    """

    def name_leaf(path, value):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact):
            return _name.bind(value, name=name + jax.tree_util.keystr(path))
        return value

    return jax.tree_util.tree_map_with_path(name_leaf, outputs)


def run(
    function: Callable[..., Any], arguments: Sequence[Any], taps: Mapping[str, Array]
) -> tuple[Any, collections.OrderedDict[str, Shaped[Array, "..."]]]:
    """Return a function's outputs and its named values, with taps added to the values.

    If a name occurs again, the values have the names `name`, `name#2`, `name#3`.

    Args:
      function: returns a pytree of arrays.
      arguments: its arguments, pytrees of arrays.
      taps: {name: array of the value's shape}.

    Returns:
      The outputs, and {name: value} in the order of the computation.

    Raises:
      ValueError: a tap has another shape than its value, or no value that the function
        uses has its name.

    Example:
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> f = lambda x: 2 * checkpoint_name(x + 1, "sum")
      >>> outputs, values = run(f, (1.0,), {"sum": jnp.array(3.0)})
      >>> float(outputs), float(values["sum"])
      (10.0, 5.0)
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    recorder = _Recorder(taps)
    outputs = recorder.evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
    for name in taps:
        if name not in recorder.values:
            names = list(recorder.values)
            reason = _hidden(closed.jaxpr).get(name)
            raise ValueError(
                f"layer {name!r} is {f'inside {reason}' if reason else 'unknown'}; "
                f"layers are {names}{hints.did_you_mean(name, names)}"
            )
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs), recorder.values


def hidden(function: Callable[..., Any], arguments: Sequence[Any]) -> dict[str, str]:
    """Return the names of the values that `run` cannot reach, and where they are.

    Example:
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> inner = lambda x: checkpoint_name(x, "a")
      >>> f = lambda x: jax.lax.cond(x > 0, inner, jnp.sin, x)
      >>> hidden(f, (1.0,))
      {'a': 'cond'}
    """
    return _hidden(jax.make_jaxpr(function)(*arguments).jaxpr)


class _Recorder:
    """Evaluates jaxprs, adds taps to named values and keeps the sums in `values`."""

    def __init__(self, taps: Mapping[str, Array]):
        self.taps = taps
        self.values = collections.OrderedDict()  # JAX sorts the keys of other dicts.

    def evaluate(self, jaxpr, constants, arguments) -> list[Any]:
        variables = [*jaxpr.constvars, *jaxpr.invars]
        values = dict(zip(variables, [*constants, *arguments], strict=True))

        def read(atom):
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        used = _used(jaxpr)
        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if equation.primitive.name == "name":
                is_used = equation.outvars[0] in used
                outputs = [self._record(equation.params["name"], inputs[0], is_used)]
            else:
                outputs = self._apply(jaxpr, equation, inputs)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, jaxpr, equation, inputs) -> Sequence[Any]:
        if not any(_names(equation)) or not _is_open(equation):
            return _bind(jaxpr, equation, inputs)
        if equation.primitive.name == "scan":
            return self._unroll(equation.params, inputs)
        return self.evaluate(*_opened(equation.params["jaxpr"]), inputs)

    def _record(self, name: str, value: Array, is_used: bool) -> Array:
        numbered = itertools.chain([name], (f"{name}#{k}" for k in itertools.count(2)))
        name = next(n for n in numbered if n not in self.values)
        if name in self.taps:
            tap = self.taps[name]
            if not is_used:
                raise ValueError(
                    f"layer {name!r} is computed but not used, so it has no gradient; "
                    "name what the network uses, as in x = checkpoint_name(x, name)"
                )
            if tap.shape != value.shape:
                raise ValueError(
                    f"the tap of layer {name!r} has the shape {tap.shape}; "
                    f"expected {value.shape}"
                )
            value = value + tap.astype(value.dtype)
        self.values[name] = value
        return value

    def _unroll(self, parameters, inputs) -> list[Any]:
        """Evaluate the steps of a scan, so that each step has its own values."""
        split = parameters["num_consts"], parameters["num_carry"]
        constants = inputs[: split[0]]
        carry, stacked = inputs[split[0] : sum(split)], inputs[sum(split) :]
        steps = range(parameters["length"])[:: -1 if parameters["reverse"] else 1]
        outputs = {}
        for step in steps:
            arguments = [*constants, *carry, *(array[step] for array in stacked)]
            results = self.evaluate(*_opened(parameters["jaxpr"]), arguments)
            carry = results[: split[1]]
            outputs[step] = results[split[1] :]
        in_order = [outputs[step] for step in sorted(steps)]
        return [*carry, *map(jnp.stack, zip(*in_order, strict=True))]


def _opened(jaxpr) -> tuple[core.Jaxpr, Sequence[Any]]:
    """Return a jaxpr and its constants, of which an open jaxpr has none."""
    closed = isinstance(jaxpr, core.ClosedJaxpr)
    return (jaxpr.jaxpr, jaxpr.consts) if closed else (jaxpr, ())


def _used(jaxpr) -> set[core.Var]:
    """Return the variables that the outputs of a jaxpr depend on."""
    used = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    for equation in reversed(jaxpr.eqns):
        if used.intersection(equation.outvars):
            atoms = equation.invars
            used.update(atom for atom in atoms if not isinstance(atom, core.Literal))
    return used


def _bind(jaxpr, equation, inputs) -> Sequence[Any]:
    """Evaluate one equation of a jaxpr as it is."""
    values = {
        atom: value
        for atom, value in zip(equation.invars, inputs, strict=True)
        if not isinstance(atom, core.Literal)
    }
    alone = jaxpr.replace(
        constvars=[], invars=[*values], outvars=equation.outvars, eqns=[equation]
    )
    return jax.core.eval_jaxpr(alone, (), *values.values())


def _names(equation) -> Iterator[str]:
    """Yield the names in an equation, at any depth."""
    if equation.primitive.name == "name":
        yield equation.params["name"]
    for jaxpr in core.jaxprs_in_params(equation.params):
        for inner in jaxpr.eqns:
            yield from _names(inner)


def _is_open(equation) -> bool:
    """Return whether `run` reaches the values inside an equation."""
    kind = equation.primitive.name
    if kind == "scan":
        return 0 < equation.params["length"] <= _MAX_STEPS
    return kind in _CALLS


def _hidden(jaxpr) -> dict[str, str]:
    """Return {name: primitive} of the values that a recorder does not reach."""
    found = {}
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        if _is_open(equation):
            for inner in core.jaxprs_in_params(equation.params):
                found |= _hidden(inner)
        elif kind != "name":
            found |= dict.fromkeys(_names(equation), kind)
    return found
