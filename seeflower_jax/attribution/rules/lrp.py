"""LRP: the relevance of each value to the score, conserved from layer to layer.

    rules = LRP(by_depth((0.5, gamma(0.25)), (1.0, epsilon(1e-6))))
    network = with_rules(network, rules)
    relevance = jax.grad(lambda x: network(x)[0][:, 0].sum())(images)

The derivative of a value is its relevance divided by the value. In this form LRP leaves
the derivatives of linear operations as they are, and taps have derivatives too. Next to
the image, the derivative is the relevance itself. Preprocessing that only scales,
shifts and moves values, such as the subtraction of a mean, passes the relevance of its
result to the pixel. A resize, a clip or a pooling belongs to the network. A constant
that is subtracted after it is then a bias.

Sources: Bach et al. 2015, doi 10.1371/journal.pone.0130140; Montavon et al. 2019,
"Layer-wise relevance propagation: an overview", doi 10.1007/978-3-030-28954-6_10.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from seeflower_jax.attribution.cam import divide
from seeflower_jax.attribution.rules.graph import MOVES, RESCALES
from seeflower_jax.attribution.rules.interpreter import (
    Marked,
    Rules,
    replace_derivative,
)
from seeflower_jax.attribution.rules.layer_rules import Layer, LayerRule
from seeflower_jax.attribution.rules.operations import Operation

# Differences below this share of the values are rounding errors.
_ROUNDING = 1e-6

# The outputs of these functions scale other values. A product holds them constant.
_GATES = {"div", "exp", "exp2", "logistic", "pow", "rsqrt", "stop_gradient"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signal:
    """A value of the network, and the meaning of its derivative.

    Attributes:
      array: the value.
      role: 'image' if the derivative is the relevance, as next to the image; 'gate' if
        the value scales any other value that it is multiplied with; if not, 'signal'.
    """

    array: Array
    role: str = dataclasses.field(default="signal", metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class LRP(Rules):
    """Propagate relevance from the score to the image.

    - Convolutions and matrix products with weights: the rule of the layer. Batch
      normalisation belongs to the layer before it.
    - Nonlinear functions f of one value, such as ReLU and GELU: all relevance passes.
      The value f(0) is a bias. If it is infinite, as for a logarithm, there is no rule.
    - Maxima and max pooling: the maximum receives all relevance.
    - Quotients: the divisor is held constant. So is the maximum in exp(x - max(x)).
    - Products of two values: an exponential, a sigmoid, an inverse root or a quotient
      is a gate. It is held constant, as attention and normalisation are in Ali et al.
      2022, arXiv 2202.07304. If neither value is a gate, each receives half, as in
      Achtibat et al. 2024, arXiv 2402.05602, section 3.

    Relevance of biases does not reach the image. Other nonlinear primitives have no
    rule.

    Attributes:
      rule: rule of the layers, see `layer_rules`.

    Example:
      >>> from seeflower_jax.attribution.rules import epsilon, with_rules
      >>> w = jnp.array([1.0, -2.0, 3.0])
      >>> layer = with_rules(lambda x: jax.nn.relu(x @ w), LRP(epsilon(0.0)))
      >>> jax.grad(layer)(jnp.ones(3)).tolist()    # the relevances of 1 - 2 + 3
      [1.0, -2.0, 3.0]
    """

    rule: LayerRule

    def keeps(self, call: JaxprEqn) -> bool:
        return False

    def enter(self, images: Array) -> Signal:
        return Signal(images, "image")

    def leave(self, value: Signal) -> Array:
        return _signal(value)

    def lift(self, value: Signal | Array) -> Signal:
        return Signal(_signal(value) if isinstance(value, Signal) else value)

    def branch(self, index: Signal | Array) -> Array:
        return index.array if isinstance(index, Signal) else index

    def linear(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        if operation.is_shift:  # of a softmax, which does not depend on the maximum
            return _hold_second(operation, *inputs)
        roles = {value.role for value in inputs if isinstance(value, Signal)}
        if roles == {"image"} and operation.name in MOVES:
            outputs = operation.evaluate(*map(_array, inputs))
            return [Signal(output, "image") for output in outputs]
        if roles == {"image"} and operation.name in RESCALES and operation.marked == 1:
            arrays = _spread(operation, _array(inputs[0])), *inputs[1:]
            output = replace_derivative(_first(operation), lambda g, *_: (g,), *arrays)
            return [Signal(output, "image")]
        outputs = operation.evaluate(*map(_signal, inputs))
        return [Signal(output, _role(inputs)) for output in outputs]

    def layer(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        x, kernel, *constants = map(_signal, inputs)
        return [Signal(_propagate(operation, self.rule, x, kernel, *constants))]

    def elementwise(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        if operation.name == "stop_gradient":
            return [Signal(lax.stop_gradient(_array(inputs[0])), "gate")]
        is_gate = operation.name in _GATES and len(operation.eqns) == 1
        if not is_gate and _is_infinite_at_0(operation):
            return self.other(operation, *inputs)
        arrays = _spread(operation, _signal(inputs[0])), *inputs[1:]
        function = _first(operation)
        output = replace_derivative(
            function, functools.partial(_pass_all, function), *arrays
        )
        return [Signal(output, "gate" if is_gate else "signal")]

    def product(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        role, function = _role(inputs), _first(operation)
        if role == "signal" and any(value.role == "gate" for value in inputs):
            return [Signal(function(*map(_hold_gate, inputs)))]
        output = replace_derivative(
            function,
            lambda g, y, *arrays: jax.vjp(function, *arrays)[1](g / 2),
            *map(_signal, inputs),
        )
        return [Signal(output, role)]

    def quotient(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        return _hold_second(operation, *inputs)

    def extremum(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        (output,) = operation.evaluate(*map(_signal, inputs))
        return [Signal(output, _role(inputs))]

    def discrete(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        outputs = operation.evaluate(*map(_array, inputs))
        return [Signal(output, "gate") for output in outputs]

    def other(self, operation: Operation, *inputs: Marked) -> list[Signal]:
        raise ValueError(
            f"LRP has no rule for the primitive {operation.name!r}; write the network "
            "without it, or give a subclass of LRP a method `other`"
        )


def _array(value: Marked) -> Array:
    return value.array if isinstance(value, Signal) else value


def _signal(value: Marked) -> Array:
    """Return an array. Its derivative is its relevance divided by its value."""
    if isinstance(value, Signal) and value.role == "image":
        return replace_derivative(lambda x: x, lambda g, y, x: (g * x,), value.array)
    return _array(value)


def _hold_gate(value: Signal) -> Array:
    is_gate = value.role == "gate"
    return lax.stop_gradient(value.array) if is_gate else _signal(value)


def _hold_second(operation: Operation, x: Signal, y: Signal) -> list[Signal]:
    """Compute an operation of two values, the second of which is held constant."""
    (output,) = operation.evaluate(_signal(x), lax.stop_gradient(y.array))
    return [Signal(output, _role([x]))]


def _role(inputs: Sequence[Marked]) -> str:
    """Return the role of a value that is computed from others."""
    roles = {value.role for value in inputs if isinstance(value, Signal)}
    return "gate" if roles == {"gate"} else "signal"


def _first(operation: Operation) -> Callable[..., Array]:
    return lambda *arrays: operation.evaluate(*arrays)[0]


def _spread(operation: Operation, array: Array) -> Array:
    return jnp.broadcast_to(array, operation.shape)


def _is_infinite_at_0(operation: Operation) -> bool:
    """Return whether a function without constant inputs has no value at 0."""
    x, *constants = operation.inputs
    if constants:
        return False
    with jax.ensure_compile_time_eval():
        (bias,) = operation.evaluate(jnp.zeros((), x.aval.dtype))
        return not bool(jnp.isfinite(bias))


def _pass_all(function, g, y, x, *constants):
    """Pass the relevance of f(x) - f(0) to x."""
    bias = function(jnp.zeros_like(x), *constants)
    (derivative,) = jax.vjp(lambda x: function(x, *constants), x)[1](g)
    changes = (x != 0) & (jnp.abs(y - bias) > _ROUNDING * jnp.abs(bias))
    slope = jnp.where(changes, g * divide(y - bias, x), derivative)
    # An inverse root is infinite at 0, so it is held constant.
    return (jnp.where(jnp.isfinite(bias), slope, 0),)


def _propagate(
    operation: Operation, rule: LayerRule, x: Array, kernel: Array, *constants: Array
) -> Array:
    """Compute the output of a layer. The rule distributes its relevance.

    A contribution x_i w_ij is positive if it equals its magnitude. The positive
    contributions to an output are therefore (x_i w_ij + |x_i| |w_ij|) / 2, and two
    products give all sums.
    """

    def multiply(x, kernel):
        return operation.evaluate(x, kernel)[0]

    # The inputs of the rule have no derivative.
    x0, kernel0, *constants = map(lax.stop_gradient, (x, kernel, *constants))
    y = multiply(x0, kernel0)

    def finish(y):
        return operation.finish(y, x0, kernel0, *constants)

    bias, scale = jax.jvp(finish, [jnp.zeros_like(y)], [jnp.ones_like(y)])

    def signs():
        size = jnp.abs(scale) * multiply(jnp.abs(x0), jnp.abs(kernel0))
        return (
            (scale * y + size) / 2 + jnp.maximum(bias, 0),
            (scale * y - size) / 2 + jnp.minimum(bias, 0),
        )

    positive, negative = rule(Layer(finish(y), operation.depth, signs))

    def pull(g, _, x, kernel, y, scale, positive, negative):
        def transpose(kernel, cotangent):
            # In mixed precision, the rest of the layer has another dtype.
            pull_x = jax.vjp(lambda x: multiply(x, kernel), x)[1]
            return pull_x(cotangent.astype(y.dtype))[0]

        cotangent = transpose(kernel, g * (positive + negative) / 2)
        if not is_even:
            difference = jnp.sign(scale) * g * (positive - negative) / 2
            cotangent += jnp.sign(x) * transpose(jnp.abs(kernel), difference)
        return (cotangent,)

    is_even = positive is negative  # saves half of the products
    arrays = x, kernel, y, scale, positive, negative
    return replace_derivative(lambda x, kernel, y, *_: y, pull, *arrays)
