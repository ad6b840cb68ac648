"""Evaluate jaxprs, and inline the calls in them.

    flat = write_out(jax.make_jaxpr(network)(images))

`jax.nn.relu` is a call of `custom_jvp` around a call of `jit` around the primitive
`max`. After inlining, only `max` is left.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array

# A variable or a literal.
Atom = Any
# The values of variables.
Environment = dict[Var, Any]
# Whether a call stays a call.
Keeps = Callable[[JaxprEqn], bool]

# Primitives that only evaluate a jaxpr. Their name depends on the version of JAX.
JITS = {"jit", "pjit"}
CHECKPOINTS = {"remat2", "checkpoint"}
CUSTOM_VJPS = {"custom_vjp_call", "custom_vjp_call_jaxpr"}
CUSTOM_DERIVATIVES = {"custom_jvp_call", *CUSTOM_VJPS}
CALLS = {*JITS, "closed_call", "core_call", *CUSTOM_DERIVATIVES}


def inner_jaxprs(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    """Return the jaxprs in the parameters of a primitive."""
    jaxprs = []
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Jaxpr):
                item = ClosedJaxpr(item, ())
            if isinstance(item, ClosedJaxpr):
                jaxprs.append(item)
    return jaxprs


def primitive_names(eqn: JaxprEqn) -> set[str]:
    """Return the names of a primitive and of all primitives that it calls.

    Example:
      >>> (relu,) = jax.make_jaxpr(jax.nn.relu)(1.0).eqns
      >>> "max" in primitive_names(relu)
      True
    """
    names = {eqn.primitive.name}
    for jaxpr in inner_jaxprs(eqn):
        names |= {name for inner in jaxpr.jaxpr.eqns for name in primitive_names(inner)}
    return names


def read(env: Environment, atom: Atom) -> Any:
    """Return the value of a variable or a literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def run(
    eqns: Iterable[JaxprEqn], env: Environment, outputs: Iterable[Atom]
) -> list[Array]:
    """Evaluate primitives in order, and return the values of `outputs`."""
    env = dict(env)
    for eqn in eqns:
        inputs = [read(env, atom) for atom in eqn.invars]
        env.update(zip(eqn.outvars, compute(eqn, inputs), strict=True))
    return [read(env, atom) for atom in outputs]


def compute(eqn: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Array]:
    """Return the outputs of a primitive."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # JAX before 0.9 returns the functions of a call separately.
    functions, parameters = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:  # such as the mesh of the trace
        outputs = eqn.primitive.bind(*functions, *inputs, **parameters)
    return outputs if eqn.primitive.multiple_results else [outputs]


def write_out(jaxpr: ClosedJaxpr, keeps: Keeps) -> ClosedJaxpr:
    """Return a jaxpr with calls replaced by their bodies.

    Args:
      jaxpr: a jaxpr, which may have nested calls.
      keeps: whether a call stays a call.

    Example:
      >>> flat = write_out(jax.make_jaxpr(jax.nn.relu)(1.0), lambda call: False)
      >>> [eqn.primitive.name for eqn in flat.eqns]
      ['max']
    """

    def evaluate(jaxpr: ClosedJaxpr, *arrays):
        env = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
        env |= dict(zip(jaxpr.jaxpr.invars, arrays, strict=True))
        for eqn in jaxpr.jaxpr.eqns:
            inputs = [read(env, atom) for atom in eqn.invars]
            is_call = eqn.primitive.name in CALLS
            if is_call and not keeps(eqn):
                outputs = evaluate(inner_jaxprs(eqn)[0], *inputs)
            else:
                outputs = compute(eqn, inputs)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(env, atom) for atom in jaxpr.jaxpr.outvars]

    return jax.make_jaxpr(lambda *arrays: evaluate(jaxpr, *arrays))(*jaxpr.in_avals)
