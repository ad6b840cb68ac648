"""Follow facts about values through a jaxpr, from its inputs to its outputs.

    jaxpr = jax.make_jaxpr(network)(images).jaxpr
    facts = propagate(jaxpr, [fact_of_the_images], rule)

A fact is what is known about a value, such as the layers that it depends on. `None`
means that nothing is known. A rule returns the facts of an operation's outputs.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from jax.extend import core

from seeflower_jax.attribution.jaxprs import CALLS, CHECKPOINTS, inner_jaxprs

Fact = Any
# (equation, facts of its inputs) -> facts of its outputs.
Rule = Callable[[core.JaxprEqn, Sequence[Fact]], Sequence[Fact]]


def propagate(
    jaxpr: core.Jaxpr,
    inputs: Sequence[Fact],
    rule: Rule,
    opaque: Collection[str] = (),
) -> list[Fact]:
    """Return the facts of a jaxpr's outputs.

    The function looks into calls such as `jax.jit` and `jax.nn.relu`. It calls the rule
    only if there is a fact about an input of the equation.

    Args:
      jaxpr: the jaxpr of any function.
      inputs: a fact for each input.
      rule: returns the facts of the outputs of all other primitives.
      opaque: names of calls that the rule handles as a whole.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda x, y: (jax.nn.relu(x), x * y))(1.0, 2.0).jaxpr
      >>> join = lambda equation, facts: ["".join(filter(None, facts))]
      >>> propagate(jaxpr, ["x", "y"], join)
      ['x', 'xy']
    """
    facts = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom) -> Fact:
        return None if isinstance(atom, core.Literal) else facts.get(atom)

    for equation in jaxpr.eqns:
        of_inputs = [read(atom) for atom in equation.invars]
        if all(fact is None for fact in of_inputs):
            continue
        of_outputs = apply_rule(equation, of_inputs, rule, opaque)
        facts.update(zip(equation.outvars, of_outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def apply_rule(
    equation: core.JaxprEqn,
    inputs: Sequence[Fact],
    rule: Rule,
    opaque: Collection[str] = (),
) -> list[Fact]:
    """Return the facts of the outputs of an equation, which may be a call.

    Args:
      equation, inputs: the equation, and a fact for each of its inputs.
      rule, opaque: see `propagate`.
    """
    name = equation.primitive.name
    if name in CALLS | CHECKPOINTS and name not in opaque:
        return propagate(inner_jaxprs(equation)[0].jaxpr, inputs, rule, opaque)
    return list(rule(equation, inputs))
