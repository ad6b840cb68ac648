"""Full gradients: what the input and each bias of a network add to the score.

    scores = with_rules(network_scores, FullGradient(canvas, draw))
    maps = jax.grad(total_score_of)(zeros)      # see `canvas.draw_terms`

A score f(x) is x * f'(x) plus the sum of b * f'(y) over all operations y(z). Here b =
y(z) - y'(z) z is the bias of the operation at z. The bias of an addition is the added
constant. ReLU, max pooling and linear functions have no bias. The sum is exact for
every network.

Each bias sends its term, as a gradient, to a canvas of the size of the images. So one
backward pass gives the map, and memory holds no map per layer.

Source: Srinivas and Fleuret 2019, arXiv 1905.00780, proposition 1, and section 3.1 for
the implicit biases of other functions.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Var
from jaxtyping import Array, Float

from seeflower_jax.attribution.dataflow import apply_rule
from seeflower_jax.attribution.receptive_field import PIXELS, Place, place_outputs
from seeflower_jax.attribution.rules.graph import MOVES, RESCALES, Kind
from seeflower_jax.attribution.rules.interpreter import (
    Marked,
    Rules,
    replace_derivative,
)
from seeflower_jax.attribution.rules.operations import Operation, has_rectifier

# draw(terms, place) -> what they add to the canvas; None for nothing.
Draw = Callable[[Float[Array, "..."], Place | None], Float[Array, "*canvas"] | None]

# Linear primitives without a bias. The biases of all others come from derivatives.
_WITHOUT_BIAS = (MOVES | RESCALES | {"reduce_sum", "reduce_window_sum"}) - {
    "add", "concatenate", "pad", "sub",
}  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Located:
    """A value of the network, where its elements lie in the images, and its bias.

    Attributes:
      array: the value.
      place: where its elements lie, or None if it is not known.
      bias: the part of the value that has not sent its term: the input itself, or what
        was added since the last layer. None if there is no such part.
    """

    array: Array
    place: Place | None = dataclasses.field(metadata={"static": True})
    bias: Array | None = None


@dataclasses.dataclass(frozen=True)
class FullGradient(Rules):
    """Send the terms of the input and of all biases to a canvas, as gradients.

    The input is the preprocessed image: the constants that preprocessing adds are not
    biases. Batch normalisation and the bias of the layer before it have one term. All
    operations keep their derivatives. A function with a custom derivative is one
    operation, unless it has a rectifier. The custom derivative must be linear in the
    tangent or cotangent.

    Attributes:
      canvas: zeros. Their gradient is the sum of all drawn terms.
      draw: draws the terms of one operation.

    Example:
      >>> from seeflower_jax.attribution.rules.interpreter import with_rules
      >>> def total(canvas, x=jnp.ones(3)):
      ...     rules = FullGradient(canvas, lambda terms, place: terms.sum())
      ...     return with_rules(lambda x: jax.nn.relu(2 * x) - x + 1, rules)(x).sum()
      >>> jax.grad(total)(0.0).item()    # the value, 3 * (2 - 1 + 1)
      6.0
    """

    canvas: Float[Array, "*canvas"]
    draw: Draw

    def keeps(self, call: JaxprEqn) -> bool:
        return super().keeps(call) and not has_rectifier(call, self.keeps)

    def enter(self, images: Array) -> Located:
        return Located(images, PIXELS if images.ndim == 4 else None, images)

    def leave(self, value: Located) -> Array:
        return self._array(value)

    def lift(self, value: Marked) -> Located:
        return Located(self._array(value), None)

    def branch(self, index: Marked) -> Array:
        return index.array if isinstance(index, Located) else index

    def linear(self, operation: Operation, *inputs: Marked) -> list[Located]:
        places = _places(operation, inputs)
        x, *constants = inputs
        if operation.marked == 1 and _keeps_bias(operation, x.place, places[0]):
            outputs = operation.evaluate(x.array, *constants)
            if x.bias is None and operation.name in _WITHOUT_BIAS:
                return list(map(Located, outputs, places))
            bias = jnp.zeros_like(x.array) if x.bias is None else x.bias
            biases = operation.evaluate(bias, *constants)
            return list(map(Located, outputs, places, biases))
        arrays = list(map(self._array, inputs))
        if operation.is_rectifier:
            return list(map(Located, [_rectify(operation, *arrays)], places))
        outputs = operation.evaluate(*arrays)
        if not _may_have_bias(operation):
            return list(map(Located, outputs, places))
        biases = _implicit_biases(operation, outputs, arrays)
        return list(map(Located, outputs, places, biases))

    layer = elementwise = product = quotient = extremum = discrete = other = linear

    def _array(self, value: Marked) -> Array:
        """Return the array of a value, and send the term of its bias."""
        if not isinstance(value, Located):
            return value
        if value.bias is None:
            return value.array
        return self._send(value.array, value.bias, value.place)

    def _send(self, value: Array, bias: Array, place: Place | None) -> Array:
        def pull(gradient, _, canvas, value, bias):
            drawn = self.draw(gradient * bias, place)
            return jnp.zeros_like(canvas) if drawn is None else drawn, gradient

        arrays = self.canvas, value, lax.stop_gradient(bias)
        return replace_derivative(lambda _, value, __: value, pull, *arrays)


def _rectify(operation: Operation, *arrays: Array) -> Array:
    """Compute max(x, 0), with the derivative 0 at 0 as in `jax.nn.relu`."""
    return replace_derivative(
        lambda *arrays: operation.evaluate(*arrays)[0],
        lambda gradient, output, *_: (jnp.where(output > 0, gradient, 0),),
        *arrays,
    )


def _keeps_bias(
    operation: Operation, before: Place | None, after: Place | None
) -> bool:
    """Return whether a bias can be sent later without losing its place."""
    is_affine = operation.kind is Kind.LINEAR and operation.name in MOVES | RESCALES
    return is_affine and _known_axes(before) <= _known_axes(after)


def _known_axes(place: Place | None) -> set[int]:
    return {window.axis for window in place or () if window}


def _may_have_bias(operation: Operation) -> bool:
    if operation.kind in (Kind.LAYER, Kind.EXTREMUM, Kind.DISCRETE):
        return False
    return operation.kind is not Kind.LINEAR or operation.name not in _WITHOUT_BIAS


def _implicit_biases(
    operation: Operation, outputs: list[Array], arrays: list[Array]
) -> list[Array | None]:
    """Return the outputs minus their derivative along the marked inputs.

    Integers, such as indices, have no derivative and no bias. The derivative is the
    transpose of the pullback, since a `custom_vjp` has no other.
    """
    arrays = list(map(lax.stop_gradient, arrays))
    changing = _floats(arrays[: operation.marked])

    def function(values):
        inputs = dict(enumerate(arrays)) | values
        return _floats(operation.evaluate(*inputs.values()))

    floats, pull = jax.vjp(function, changing)
    try:
        (slopes,) = jax.linear_transpose(pull, floats)((changing,))
    except NotImplementedError as error:
        raise ValueError(
            f"FullGradient has no rule for the primitive {operation.name!r}, because "
            "its derivative is not linear; write the network without it"
        ) from error
    biases = jax.tree.map(jnp.subtract, floats, slopes)
    return [biases.get(number) for number in range(len(outputs))]


def _floats(arrays: Sequence[Array]) -> dict[int, Array]:
    """Return the arrays that have a derivative, by number."""
    numbered = enumerate(arrays)
    return {i: x for i, x in numbered if jnp.issubdtype(x.dtype, jnp.inexact)}


def _places(operation: Operation, inputs: tuple[Marked, ...]) -> list[Place | None]:
    """Return the places of the outputs of an operation."""
    places = {
        var: value.place if isinstance(value, Located) else None
        for var, value in zip(operation.inputs, inputs, strict=True)
    }
    for eqn in operation.eqns:
        of_inputs = [places.get(v) if isinstance(v, Var) else None for v in eqn.invars]
        if any(place is not None for place in of_inputs):
            of_outputs = apply_rule(eqn, of_inputs, place_outputs)
            places.update(zip(eqn.outvars, of_outputs, strict=True))
    return [places.get(var) for var in operation.outputs]
