"""Taps: read the named values of a computation, and add arrays to them.

    def f(x):
        return 2 * checkpoint_name(x + 1, "sum")

    run(f, (1.0,), taps={"sum": jnp.array(3.0)})      # (10.0, {"sum": 5.0})

`run` traces a function to a jaxpr and evaluates the jaxpr equation by equation. It sees
through `jit`, `vmap`, `scan` and `checkpoint`. Storing a value as a side effect would
leak a tracer there.
"""

import collections
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Shaped

from seeflower_jax.attribution import jaxprs
from seeflower_jax.attribution.adapters import named
from seeflower_jax.attribution.layers import Cut, unknown_layer


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
      ValueError: the shape of a tap differs from its value's, or no value that the
        function uses has its name.

    Example:
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> f = lambda x: 2 * checkpoint_name(x + 1, "sum")
      >>> outputs, values = run(f, (1.0,), {"sum": jnp.array(3.0)})
      >>> float(outputs), float(values["sum"])
      (10.0, 5.0)
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    recorder = _Recorder(taps)
    outputs = recorder.evaluate(closed, jax.tree.leaves(arguments))
    for name in taps:
        if name not in recorder.values:
            hidden = named.hidden_names(closed.jaxpr)
            raise unknown_layer(name, recorder.values, hidden)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs), recorder.values


class _Recorder:
    """Evaluates jaxprs, adds taps to named values and keeps the sums in `values`."""

    def __init__(self, taps: Mapping[str, Array]):
        self.taps = taps
        self.values = collections.OrderedDict()  # JAX sorts the keys of other dicts.

    def evaluate(self, closed: core.ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
        jaxpr = closed.jaxpr
        variables = [*jaxpr.constvars, *jaxpr.invars]
        values = dict(zip(variables, [*closed.consts, *arguments], strict=True))
        used = named.used_variables(jaxpr)
        for equation in jaxpr.eqns:
            inputs = [jaxprs.read(values, atom) for atom in equation.invars]
            if equation.primitive.name == "name":
                is_used = equation.outvars[0] in used
                outputs = [self._record(equation.params["name"], inputs[0], is_used)]
            else:
                outputs = self._apply(equation, inputs)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [jaxprs.read(values, atom) for atom in jaxpr.outvars]

    def _apply(self, equation: core.JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
        has_names = next(named.names_in(equation), None) is not None
        if not (has_names and named.is_open(equation)):
            return jaxprs.compute(equation, inputs)
        (body,) = jaxprs.inner_jaxprs(equation)
        if equation.primitive.name == "scan":
            return self._unroll(body, equation.params, inputs)
        return self.evaluate(body, inputs)

    def _record(self, name: str, value: Array, is_used: bool) -> Array:
        numbered = itertools.chain([name], (f"{name}#{k}" for k in itertools.count(2)))
        name = next(n for n in numbered if n not in self.values)
        if name in self.taps:
            tap = self.taps[name]
            if not is_used and not isinstance(tap, Cut):  # `layers` checks cuts.
                raise ValueError(
                    f"layer {name!r} is computed but not used, so it has no gradient; "
                    "name the value that is used, as in x = checkpoint_name(x, name)"
                )
            if tap.shape != value.shape:
                raise ValueError(
                    f"the tap of layer {name!r} has the shape {tap.shape}; "
                    f"expected {value.shape}"
                )
            value = value + tap.astype(value.dtype)
        self.values[name] = value
        return value

    def _unroll(
        self,
        body: core.ClosedJaxpr,
        parameters: Mapping[str, Any],
        inputs: Sequence[Any],
    ) -> list[Any]:
        """Evaluate the steps of a scan, so that each step has its own values."""
        split = parameters["num_consts"], parameters["num_carry"]
        constants = inputs[: split[0]]
        carry, stacked = inputs[split[0] : sum(split)], inputs[sum(split) :]
        steps = range(parameters["length"])[:: -1 if parameters["reverse"] else 1]
        outputs = {}
        for step in steps:
            arguments = [*constants, *carry, *(array[step] for array in stacked)]
            results = self.evaluate(body, arguments)
            carry = results[: split[1]]
            outputs[step] = results[split[1] :]
        in_order = [outputs[step] for step in sorted(steps)]
        return [*carry, *map(jnp.stack, zip(*in_order, strict=True))]
