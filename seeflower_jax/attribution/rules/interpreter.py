"""Evaluate a network with other backward rules.

    guided_network = with_rules(network, Guided())
    gradient = jax.grad(lambda x: guided_network(x)[0][:, 0].sum())(images)

The network is any function of JAX. It is traced to a jaxpr. The operations of the jaxpr
are evaluated one by one, each with the derivative that the rules give it. The outputs
are the outputs of the network. The result is a function of JAX again, so `jit`, `vmap`
and `grad` work on it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from seeflower_jax.attribution.jaxprs import CUSTOM_DERIVATIVES, read
from seeflower_jax.attribution.rules.graph import Kind
from seeflower_jax.attribution.rules.operations import Operation, Plan, make_plan

# What the rules keep of a value: a pytree of arrays if the value depends on the images,
# the array of a constant.
Marked = Any


class Rules:
    """How each kind of operation is computed and differentiated.

    This class keeps the derivative of each operation. A subclass replaces the methods
    of some of the kinds that `graph.Kind` lists. Such a method takes the operation and
    its inputs. The inputs that depend on the images come first, as `enter` or another
    method returned them. The other inputs are arrays.
    """

    def enter(self, images: Array) -> Marked:
        """Return what the rules keep of the images."""
        return images

    def leave(self, value: Marked) -> Array:
        """Return the array of an output of the network."""
        return value

    def lift(self, value: Marked) -> Marked:
        """Return a value, or a constant, in the form that loops and branches carry."""
        return value

    def branch(self, index: Marked) -> Array:
        """Return the index of a branch of `jax.lax.cond`."""
        return index

    def keeps(self, call: JaxprEqn) -> bool:
        """Return whether a call keeps its derivative, and so is one operation.

        The rules see the operations inside of all other calls.
        """
        return call.primitive.name in CUSTOM_DERIVATIVES

    def check(self, plan: Plan) -> None:
        """Raise a ValueError if the rules do not apply to a network."""

    def linear(self, operation: Operation, *inputs: Marked) -> list[Marked]:
        """Compute an operation that is linear in the marked values."""
        return operation.evaluate(*inputs)

    layer = elementwise = product = quotient = extremum = discrete = other = linear


def with_rules(function: Callable[..., Any], rules: Rules) -> Callable[..., Any]:
    """Return a network with the same outputs and other derivatives.

    Args:
      function: function(images, ...) returns a pytree of arrays. The rules define the
        derivatives with respect to `images` and to taps. Derivatives with respect to
        other values, such as parameters, are not defined.
      rules: the derivatives of its operations.

    Returns:
      A function of the same arguments, differentiable in reverse mode.

    Raises:
      ValueError: when the result is called, if `images` are not floating point, or if
        there is no rule for a primitive. The message names the primitive.

    Example:
      >>> from seeflower_jax.attribution.rules.activations import Guided
      >>> guided = with_rules(network, Guided())
      >>> bool((guided(images)[0] == network(images)[0]).all())
      True
    """

    def rewritten(images: Float[Array, "n h w 3"], *args: Any, **kwargs: Any) -> Any:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype}; expected floating point, such as "
                "images.astype(jnp.float32)"
            )
        jaxpr, shapes = jax.make_jaxpr(
            lambda images: function(images, *args, **kwargs), return_shape=True
        )(images)
        plan = make_plan(jaxpr, [True], rules.keeps)
        rules.check(plan)
        outputs = _run(plan, rules, [rules.enter(images)])
        leaves = [
            rules.leave(value) if is_marked else value
            for value, is_marked in zip(outputs, plan.marked_outputs, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return rewritten


def replace_derivative(
    function: Callable[..., Array], pullback: Callable[..., Any], *arrays: Array
) -> Array:
    """Compute `function(*arrays)`, with another derivative.

    Args:
      function: the function.
      pullback: pullback(cotangent, output, *arrays) returns the cotangents of the first
        arrays. The cotangents of the other arrays are zero.
      *arrays: all arrays that the function and the pullback read.

    Example:
      >>> double = lambda g, y, x: (2 * g,)
      >>> jax.grad(lambda x: replace_derivative(jnp.sin, double, x))(0.5).item()
      2.0
    """

    @jax.custom_vjp
    def replaced(*arrays):
        return function(*arrays)

    def forward(*arrays):
        output = function(*arrays)
        return output, (output, *arrays)

    def backward(residuals, cotangent):
        cotangents = pullback(cotangent, *residuals)
        pairs = zip(cotangents, residuals[1:], strict=False)
        cast = [cotangent.astype(array.dtype) for cotangent, array in pairs]
        return (*cast, *[None] * (len(arrays) - len(cast)))

    replaced.defvjp(forward, backward)
    return replaced(*arrays)


def _run(plan: Plan, rules: Rules, values: Sequence[Marked]) -> list[Any]:
    """Compute the outputs of a plan."""
    env = dict(plan.constants) | dict(zip(plan.inputs, values, strict=True))
    for operation in plan.operations:
        inputs = [read(env, atom) for atom in operation.inputs]
        if operation.kind is Kind.CONSTANT:
            outputs = operation.evaluate(*inputs)
        elif operation.kind in _CONTROL:
            outputs = _CONTROL[operation.kind](operation, rules, inputs)
        else:
            outputs = getattr(rules, operation.kind.value)(operation, *inputs)
        env.update(zip(operation.outputs, outputs, strict=True))
    return [read(env, atom) for atom in plan.outputs]


def _lift(rules: Rules, values: Sequence[Any], marked: Sequence[bool]) -> list[Any]:
    pairs = zip(values, marked, strict=True)
    return [rules.lift(value) if is_marked else value for value, is_marked in pairs]


def _checkpoint(operation: Operation, rules: Rules, inputs: list[Any]) -> list[Any]:
    (plan,), parameters = operation.plans, operation.eqns[0].params

    is_constant = [not is_marked for is_marked in plan.marked_outputs]

    def body(*values):
        return _lift(rules, _run(plan, rules, values), is_constant)

    options = {key: parameters[key] for key in ("prevent_cse", "policy")}
    return jax.checkpoint(body, **options)(*inputs)


def _scan(operation: Operation, rules: Rules, inputs: list[Any]) -> list[Any]:
    (plan,), parameters = operation.plans, operation.eqns[0].params
    first = parameters["num_consts"]
    last = first + parameters["num_carry"]
    values = _lift(rules, inputs, plan.marked_inputs)
    carry_marked = plan.marked_inputs[first:last]

    def body(carry, slices):
        outputs = _run(plan, rules, [*values[:first], *carry, *slices])
        carry = _lift(rules, outputs[: last - first], carry_marked)
        slices = outputs[last - first :]
        return carry, _lift(rules, slices, [True] * len(slices))

    options = {key: parameters[key] for key in ("length", "reverse", "unroll")}
    carry, slices = jax.lax.scan(body, values[first:last], values[last:], **options)
    return [*_lift(rules, carry, [True] * len(carry)), *slices]


def _cond(operation: Operation, rules: Rules, inputs: list[Any]) -> list[Any]:
    index, *values = inputs

    def branch(plan):
        def run(*values):
            outputs = _run(plan, rules, values)
            return _lift(rules, outputs, [True] * len(outputs))

        return run

    marked = operation.plans[0].marked_inputs
    return jax.lax.switch(
        rules.branch(index),
        list(map(branch, operation.plans)),
        *_lift(rules, values, marked),
    )


_CONTROL: dict[Kind, Callable[..., list[Any]]] = {
    Kind.CHECKPOINT: _checkpoint,
    Kind.SCAN: _scan,
    Kind.COND: _cond,
}
