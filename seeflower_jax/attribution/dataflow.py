"""Follow facts about values through a jaxpr, from its inputs to its outputs.

    jaxpr = jax.make_jaxpr(network)(images).jaxpr
    facts = propagate(jaxpr, [fact_of_the_images], rule)

A fact is what is known of a value, such as the layers that it depends on. `None` says
that nothing is known. A rule gives the facts of an operation's outputs.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from jax.extend import core

Fact = Any
# (equation, facts of its inputs) -> facts of its outputs.
Rule = Callable[[core.JaxprEqn, Sequence[Fact]], Sequence[Fact]]

# Primitives that only evaluate their parameter, a jaxpr, under all names of JAX.
_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip


def propagate(
    jaxpr: core.Jaxpr,
    inputs: Sequence[Fact],
    rule: Rule,
    opaque: Collection[str] = (),
) -> list[Fact]:
    """Return the facts of a jaxpr's outputs.

    The function looks into calls of `jax.jit`, `jax.nn.relu` and the like. A rule
    never sees an equation without any fact about its inputs.

    Args:
      jaxpr: of any function.
      inputs: a fact for each input.
      rule: gives the facts of the outputs of all other primitives.
      opaque: names of calls that are left to the rule.

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
        body = None if equation.primitive.name in opaque else _body(equation)
        of_outputs = (
            propagate(body, of_inputs, rule, opaque)
            if body
            else rule(equation, of_inputs)
        )
        facts.update(zip(equation.outvars, of_outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _body(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """Return the jaxpr that an equation calls, None for any other primitive."""
    if equation.primitive.name not in _CALLS:
        return None
    return next(iter(core.jaxprs_in_params(equation.params)), None)
