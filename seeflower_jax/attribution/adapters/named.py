"""Jaxprs with named values: where the names are, and what the outputs depend on.

Example:
    closed = jax.make_jaxpr(function)(x)
    hidden_names(closed.jaxpr)      # {"block": "while"}
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend import core

from seeflower_jax.attribution import jaxprs

# A longer scan is a loop over time or over chunks rather than over layers.
_MAX_STEPS = 128


def names_in(equation: core.JaxprEqn) -> Iterator[str]:
    """Yield the names in an equation, at any depth."""
    if equation.primitive.name == "name":
        yield equation.params["name"]
    for jaxpr in core.jaxprs_in_params(equation.params):
        for inner in jaxpr.eqns:
            yield from names_in(inner)


def is_open(equation: core.JaxprEqn) -> bool:
    """Return whether the equations inside an equation can be evaluated in its place."""
    kind = equation.primitive.name
    if kind == "scan":
        return 0 < equation.params["length"] <= _MAX_STEPS
    return kind in jaxprs.JITS | jaxprs.CHECKPOINTS


def hidden_names(jaxpr: core.Jaxpr) -> dict[str, str]:
    """Return {name: primitive} of the names inside primitives that are not open.

    Example:
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> inner = lambda x: checkpoint_name(x, "block")
      >>> closed = jax.make_jaxpr(lambda x: jax.lax.cond(x > 0, inner, inner, x))(1.0)
      >>> hidden_names(closed.jaxpr)
      {'block': 'cond'}
    """
    hidden = {}
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        if is_open(equation):
            for inner in core.jaxprs_in_params(equation.params):
                hidden |= hidden_names(inner)
        elif kind != "name":
            hidden |= dict.fromkeys(names_in(equation), kind)
    return hidden


def used_variables(jaxpr: core.Jaxpr) -> set[core.Var]:
    """Return the variables that the outputs of a jaxpr depend on.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda x, y: (jnp.sin(y), x)[1])(1.0, 2.0).jaxpr
      >>> [variable in used_variables(jaxpr) for variable in jaxpr.invars]
      [True, False]
    """
    used = set(_variables(jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if used.intersection(equation.outvars):
            used.update(_variables(equation.invars))
    return used


def _variables(atoms: Sequence[Any]) -> Iterator[core.Var]:
    return (atom for atom in atoms if not isinstance(atom, core.Literal))
