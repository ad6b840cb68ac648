"""DeepLIFT: the contribution of each value to the difference from a baseline.

    lifted = with_rules(network, DeepLift(baseline=127.5))
    multipliers = jax.grad(lambda x: lifted(x)[0][:, 0].sum())(images)
    contributions = multipliers * (images - 127.5)

The network is computed for the images and for the baseline. The derivative of a
function is its multiplier: the difference of its outputs over the difference of its
inputs. The contributions sum to the difference of the outputs.

Source: Shrikumar et al. 2017, arXiv 1704.02685: multipliers (section 3.2), linear and
rescale rules (3.5).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from seeflower_jax.attribution.rules.interpreter import (
    Marked,
    Rules,
    replace_derivative,
)
from seeflower_jax.attribution.rules.operations import Operation

# For differences below this share of the values, which are rounding errors, the
# derivative is used.
_ROUNDING = 1e-6

Values = Float[Array, "*shape"]


class Pair(NamedTuple):
    """A value for the images and for the baseline; only the first is differentiated."""

    image: Array
    baseline: Array


@dataclasses.dataclass(frozen=True)
class DeepLift(Rules):
    """Give each operation its multiplier as its derivative.

    - Nonlinear functions of one value: the rescale rule. A function that is written in
      several primitives, such as GELU, is one function.
    - Maxima and max pooling: the maximum of the image gets a rise, the maximum of the
      baseline a fall. captum has this rule, too.
    - Products and quotients of two values: the mean over both orders in which the
      values can change (Shapley), which is complete.

    Other nonlinear primitives have no multiplier.

    Attributes:
      baseline: images without information, or one value for all pixels.

    Example:
      >>> from seeflower_jax.attribution.rules.interpreter import with_rules
      >>> relu = with_rules(jax.nn.relu, DeepLift(baseline=-1.0))
      >>> jax.grad(relu)(3.0).item()    # (relu(3) - relu(-1)) / (3 - -1)
      0.75
    """

    baseline: float | Array

    def keeps(self, call: JaxprEqn) -> bool:
        return False

    def enter(self, images: Array) -> Pair:
        baseline = jnp.asarray(self.baseline, images.dtype)
        baseline = jnp.broadcast_to(baseline, images.shape)
        # Inside `jax.shard_map`, the sum varies over the same axes as the images.
        return Pair(images, jnp.zeros_like(images) + baseline)

    def leave(self, value: Pair) -> Array:
        return value.image

    def lift(self, value: Pair | Array) -> Pair:
        return value if isinstance(value, Pair) else Pair(value, value)

    def branch(self, index: Pair | Array) -> Array:
        if isinstance(index, Pair):
            raise ValueError(
                "DeepLift has no rule for a branch of jax.lax.cond that depends on the "
                "images, since the baseline may take another branch; use jnp.where"
            )
        return index

    def linear(self, operation: Operation, *inputs: Marked) -> list[Pair]:
        images = operation.evaluate(*_images(inputs))
        baselines = lax.stop_gradient(operation.evaluate(*_baselines(inputs)))
        return list(map(Pair, images, baselines))

    layer = discrete = linear

    def elementwise(self, operation: Operation, *inputs: Marked) -> list[Pair]:
        # An input with fewer elements than the output counts once for each of them.
        spread = [jnp.broadcast_to(array, operation.shape) for array in inputs[0]]
        return _lift(operation, _rescale, Pair(*spread), *inputs[1:])

    def product(self, operation: Operation, *inputs: Marked) -> list[Pair]:
        return _lift(operation, _midpoint, *inputs)

    def quotient(self, operation: Operation, *inputs: Marked) -> list[Pair]:
        pairs = (
            Pair(*(jnp.broadcast_to(array, operation.shape) for array in pair))
            for pair in inputs
        )
        return _lift(operation, _quotient, *pairs)

    def extremum(self, operation: Operation, *inputs: Marked) -> list[Pair]:
        is_minimum = "min" in operation.name
        return _lift(operation, _minimum if is_minimum else _maximum, *inputs)

    def other(self, operation: Operation, *inputs: Marked) -> list[Pair]:
        raise ValueError(
            f"DeepLift has no rule for the primitive {operation.name!r}; write the "
            "network without it, or give a subclass of DeepLift a method `other`"
        )


def _images(inputs: Sequence[Marked]) -> list[Array]:
    return [value.image if isinstance(value, Pair) else value for value in inputs]


def _baselines(inputs: Sequence[Marked]) -> list[Array]:
    return [value.baseline if isinstance(value, Pair) else value for value in inputs]


def _lift(operation: Operation, rule: "Rule", *inputs: Marked) -> list[Pair]:
    """Compute the output of an operation, with multipliers by a rule."""
    pairs = [value for value in inputs if isinstance(value, Pair)]
    constants, count = inputs[len(pairs) :], len(pairs)
    (y0,) = lax.stop_gradient(operation.evaluate(*_baselines(inputs)))

    def function(*arrays):
        return operation.evaluate(*arrays[:count], *arrays[2 * count + 1 :])[0]

    def pull(g, y, *arrays):
        x, x0, y0 = arrays[:count], arrays[count : 2 * count], arrays[2 * count]
        constants = arrays[2 * count + 1 :]

        def of_inputs(*x):
            return operation.evaluate(*x, *constants)[0]

        return rule(g, of_inputs, Pair(x, x0), Pair(y, y0))

    arrays = [*_images(pairs), *_baselines(pairs), y0, *constants]
    return [Pair(replace_derivative(function, pull, *arrays), y0)]


def _divide(contribution: Values, x: Values, x0: Values, derivative: Values) -> Values:
    """Divide by the difference of the inputs, or return the derivative if it is 0."""
    change, scale = x - x0, jnp.maximum(jnp.abs(x), jnp.abs(x0))
    changes = jnp.abs(change) > _ROUNDING * scale
    return jnp.where(changes, contribution / jnp.where(changes, change, 1), derivative)


# rule(cotangent, function, inputs, output) -> the cotangents of the inputs.
Rule = Callable[[Array, Callable[..., Array], Pair, Pair], Sequence[Array]]


def _rescale(g, function, inputs, output):
    (x,), (x0,) = inputs
    (derivative,) = jax.vjp(function, x)[1](g)
    return [_divide(g * (output.image - output.baseline), x, x0, derivative)]


def _midpoint(g, function, inputs, output):
    """Take the derivative between image and baseline: exact for products."""
    means = ((x + x0) / 2 for x, x0 in zip(*inputs, strict=True))
    return jax.vjp(function, *means)[1](g)


def _quotient(g, function, inputs, output):
    """Take x / y as the product of x and 1 / y, with the rescale rule for 1 / y."""
    (x, y), (x0, y0) = inputs
    return g * (1 / y + 1 / y0) / 2, -g * (x + x0) / (2 * y * y0)


def _maximum(g, function, inputs, output, top=jnp.maximum):
    """Give a rise to the image's maximum, a fall to the baseline's maximum."""
    (_, pull), (_, pull_baseline) = (jax.vjp(function, *arrays) for arrays in inputs)
    y, y0 = output
    rises = pull(g * (top(y, y0) - y0))
    falls = pull_baseline(g * (y - top(y, y0)))
    return [
        _divide(rise + fall, x, x0, derivative)
        for rise, fall, x, x0, derivative in zip(
            rises, falls, *inputs, pull(g), strict=True
        )
    ]


_minimum = functools.partial(_maximum, top=jnp.minimum)
