"""Guided backpropagation and the deconvnet: other derivatives of rectifiers.

    maps = saliency(with_rules(network, Guided()), images, targets)

A rectifier is max(x, 0), however it is written: `jax.nn.relu`, `jnp.maximum(x, 0)`,
`jnp.where(x > 0, x, 0)` or `x * (x > 0)`. The lower bound of `jax.nn.relu6` and
`jnp.clip(x, 0, b)` is one, too. The lower bound of the variance in a
normalisation is not one. All other functions keep their derivatives, as in captum.
"""

import abc

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from seeflower_jax.attribution.jaxprs import CUSTOM_DERIVATIVES, primitive_names
from seeflower_jax.attribution.rules.graph import Kind
from seeflower_jax.attribution.rules.interpreter import Rules, replace_derivative
from seeflower_jax.attribution.rules.operations import Operation, Plan, has_rectifier

_RECTIFIERS = {"max", "select_n"}
_EXTREMA = {"max", "min"}  # of two values
_OTHER_ACTIVATIONS = {"erf", "erfc", "expm1", "logistic", "select_n", "tanh"}

Values = Float[Array, "*shape"]


class RectifierRules(Rules, abc.ABC):
    """Replace the derivatives of rectifiers; all other operations keep theirs.

    A `custom_jvp` or `custom_vjp` without a rectifier keeps its derivative.
    """

    @abc.abstractmethod
    def pull(self, cotangent: Values, output: Values) -> Values:
        """Return the cotangent of the input of a rectifier."""

    def keeps(self, call: JaxprEqn) -> bool:
        return super().keeps(call) and not has_rectifier(call, self.keeps)

    def check(self, plan: Plan) -> None:
        operations = list(plan.walk())
        if any(operation.is_rectifier for operation in operations):
            return
        nonlinear = [o for o in operations if o.kind in (Kind.ELEMENTWISE, Kind.OTHER)]
        names = {n for o in nonlinear for eqn in o.eqns for n in primitive_names(eqn)}
        activations = names & _OTHER_ACTIVATIONS or {
            operation.name
            for operation in operations
            if operation.kind is Kind.ELEMENTWISE or operation.name in _EXTREMA
        }
        if activations:
            raise ValueError(
                f"{type(self).__name__} has rules for rectifiers, max(x, 0), but the "
                f"network has none: its activation functions use {sorted(activations)}"
                "; use DeepLift or another method"
            )

    def elementwise(self, operation: Operation, *inputs: Array) -> list[Array]:
        if not operation.is_rectifier:
            return operation.evaluate(*inputs)
        output = replace_derivative(
            lambda *arrays: operation.evaluate(*arrays)[0],
            lambda cotangent, output, *_: (self.pull(cotangent, output),),
            *inputs,
        )
        return [output]

    def other(self, operation: Operation, *inputs: Array) -> list[Array]:
        hidden = set().union(*map(primitive_names, operation.eqns)) & _RECTIFIERS
        if hidden and operation.name not in CUSTOM_DERIVATIVES:
            raise ValueError(
                f"{type(self).__name__} cannot look into the primitive "
                f"{operation.name!r}, which has {sorted(hidden)} inside; expected "
                "rectifiers in jit, custom_jvp, custom_vjp, checkpoint, scan or cond"
            )
        return operation.evaluate(*inputs)


class Guided(RectifierRules):
    """Let a gradient pass where it is positive and the rectifier passes its input.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4.

    Example:
      >>> from seeflower_jax.attribution.rules.interpreter import with_rules
      >>> relu = with_rules(jax.nn.relu, Guided())
      >>> x, cotangent = jnp.array([-1.0, 1, 1]), jnp.array([3.0, 3, -3])
      >>> jax.vjp(relu, x)[1](cotangent)[0].tolist()
      [0.0, 3.0, 0.0]
    """

    def pull(self, cotangent: Values, output: Values) -> Values:
        return jnp.where((output > 0) & (cotangent > 0), cotangent, 0)


class Deconvnet(RectifierRules):
    """Let a gradient pass where it is positive, whatever the rectifier's input.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 2.1.

    Example:
      >>> from seeflower_jax.attribution.rules.interpreter import with_rules
      >>> relu = with_rules(jax.nn.relu, Deconvnet())
      >>> x, cotangent = jnp.array([-1.0, 1, 1]), jnp.array([3.0, 3, -3])
      >>> jax.vjp(relu, x)[1](cotangent)[0].tolist()
      [3.0, 3.0, 0.0]
    """

    def pull(self, cotangent: Values, output: Values) -> Values:
        return jax.nn.relu(cotangent)
