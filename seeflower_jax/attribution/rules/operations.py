"""The operations of a network, each with a kind that decides its backward rule.

    plan = make_plan(jax.make_jaxpr(network)(images), marked=[True])
    [operation.kind for operation in plan.operations]

A plan follows the values that depend on the images, which are *marked*. A function that
is written in several primitives, such as SiLU as `x * sigmoid(x)`, is one operation on
one value.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jax.interpreters import partial_eval
from jaxtyping import Array

from seeflower_jax.attribution.jaxprs import (
    Atom,
    Keeps,
    inner_jaxprs,
    run,
    write_out,
)
from seeflower_jax.attribution.rules.graph import CONTROL, REARRANGES, Graph, Kind


@dataclasses.dataclass
class LayerCount:
    """The number of layers of a network, known when its plan is complete."""

    total: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One or more primitives that have one backward rule.

    Attributes:
      kind: decides the rule.
      name: name of the last primitive, for messages.
      eqns: the primitives, in order.
      inputs: the variables that `evaluate` takes; the marked ones come first. For a
        loop, a branch or a checkpoint, they are its inputs by position, with literals.
      marked: how many inputs are marked.
      outputs: the variables that `evaluate` returns.
      chain: for a layer, the additions of and products with constants that follow it,
        such as its bias and batch normalisation. They are operations of the plan, too.
      plans: the bodies of a loop, a branch or a checkpoint.
      is_rectifier: whether the operation is max(x, 0).
      is_shift: whether the operation is the subtraction in exp(x - max(x)).
      position: for a layer, the number of layers before it.
      layers: the number of layers of the network.
    """

    kind: Kind
    name: str
    eqns: tuple[JaxprEqn, ...]
    inputs: tuple[Atom, ...]
    marked: int
    outputs: tuple[Var, ...]
    chain: tuple[JaxprEqn, ...] = ()
    plans: "tuple[Plan, ...]" = ()
    is_rectifier: bool = False
    is_shift: bool = False
    position: int = 0
    layers: LayerCount = dataclasses.field(default_factory=LayerCount)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        output: Any = self.outputs[0].aval
        return output.shape

    @property
    def depth(self) -> float:
        """The depth of a layer: 0 next to the image, 1 next to the logits."""
        return (self.position + 0.5) / self.layers.total

    def evaluate(self, *arrays: Array) -> list[Array]:
        """Compute the outputs from the inputs.

        The constants of a layer's chain may be left out, after the first two inputs.
        """
        env = dict(zip(self.inputs, arrays, strict=False))
        return run(self.eqns, env, self.outputs)

    def finish(self, output: Array, *arrays: Array) -> Array:
        """Compute the output of a layer's chain from the output of the layer.

        The elements keep the order that they have in the output of the layer.
        """
        env = dict(zip(self.inputs, arrays, strict=True))
        env[self.outputs[0]] = output
        end = self.chain[-1].outvars[0] if self.chain else self.outputs[0]
        result = run(self.chain, env, [end])[0]
        for eqn in reversed(self.chain):
            if eqn.primitive.name in REARRANGES:
                source: Any = eqn.invars[0]
                rearrange = functools.partial(_run_one, eqn)
                shape = jax.ShapeDtypeStruct(source.aval.shape, result.dtype)
                (result,) = jax.linear_transpose(rearrange, shape)(result)
        return result


def _run_one(eqn: JaxprEqn, array: Array) -> Array:
    source: Any = eqn.invars[0]
    return run([eqn], {source: array}, eqn.outvars)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The operations of a jaxpr, in an order in which they can be computed.

    Attributes:
      inputs: the variables of the arguments.
      marked_inputs: which of the inputs depend on the images.
      constants: the variables and values of constants.
      operations: the operations; constant ones come first.
      outputs: variables and literals.
      marked_outputs: which of the outputs depend on the images.
    """

    inputs: tuple[Var, ...]
    marked_inputs: tuple[bool, ...]
    constants: tuple[tuple[Var, Any], ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Atom, ...]
    marked_outputs: tuple[bool, ...]

    def walk(self) -> Iterator[Operation]:
        """Yield all operations, including the operations of loops and branches."""
        for operation in self.operations:
            yield operation
            for plan in operation.plans:
                yield from plan.walk()


def make_plan(
    jaxpr: ClosedJaxpr, marked: Sequence[bool], keeps: Keeps = lambda call: False
) -> Plan:
    """Return the operations of a jaxpr.

    Args:
      jaxpr: the jaxpr of the network.
      marked: which arguments depend on the images.
      keeps: whether a call stays a call.

    Example:
      >>> plan = make_plan(jax.make_jaxpr(jax.nn.silu)(1.0), [True])
      >>> [operation.kind.value for operation in plan.operations]
      ['elementwise']
    """
    return _Planner(keeps, LayerCount()).plan(jaxpr, marked)


def has_rectifier(call: JaxprEqn, keeps: Keeps) -> bool:
    """Return whether the body of a call computes max(x, 0).

    Args:
      call: a call with one body, such as `jax.nn.relu`.
      keeps: whether a call in the body stays a call.
    """
    body = inner_jaxprs(call)[0]
    plan = make_plan(body, [True] * len(body.in_avals), keeps)
    return any(operation.is_rectifier for operation in plan.walk())


class _Planner:
    """Make the plans of a network, and count its layers."""

    def __init__(self, keeps: Keeps, layers: LayerCount):
        self._keeps, self._layers = keeps, layers

    def plan(self, jaxpr: ClosedJaxpr, marked: Sequence[bool]) -> Plan:
        jaxpr = _drop_unused(write_out(jaxpr, self._keeps))
        graph = Graph(jaxpr, marked)
        operations = [self._operation(eqn, graph) for eqn in jaxpr.jaxpr.eqns]
        outputs = tuple(jaxpr.jaxpr.outvars)
        operations = _needed(operations, outputs)
        operations.sort(key=lambda operation: operation.kind is not Kind.CONSTANT)
        constants = zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)
        return Plan(
            tuple(jaxpr.jaxpr.invars),
            tuple(marked),
            tuple(constants),
            tuple(operations),
            outputs,
            tuple(graph.is_marked(atom) for atom in outputs),
        )

    def _operation(self, eqn: JaxprEqn, graph: Graph) -> Operation:
        kind, eqns = graph.classify(eqn)
        details: dict[str, Any] = {}
        if kind is Kind.LAYER:
            details = {
                "chain": graph.chain(eqn),
                "position": self._layers.total,
                "layers": self._layers,
            }
            self._layers.total += 1
        elif kind is Kind.LINEAR:
            details = {"is_shift": graph.is_shift(eqn)}
        elif kind is Kind.ELEMENTWISE:
            details = {"is_rectifier": graph.is_rectifier(eqns)}
        elif kind in CONTROL.values():
            details = {"plans": self._plans(kind, eqn, graph)}
        if kind in CONTROL.values():
            inputs = list(eqn.invars)  # by position, as the bodies take them
        else:
            inputs = _free_variables((*eqns, *details.get("chain", ())))
            inputs.sort(key=lambda var: not graph.is_marked(var))
        return Operation(
            kind,
            eqn.primitive.name,
            eqns,
            tuple(inputs),
            sum(map(graph.is_marked, inputs)),
            tuple(eqn.outvars),
            **details,
        )

    def _plans(self, kind: Kind, eqn: JaxprEqn, graph: Graph) -> tuple[Plan, ...]:
        marked = [graph.is_marked(atom) for atom in eqn.invars]
        if kind is Kind.COND:
            marked = marked[1:]  # without the index of the branch
        if kind is Kind.SCAN:
            marked = _marked_by_loop(eqn, marked)
        return tuple(self.plan(jaxpr, marked) for jaxpr in inner_jaxprs(eqn))


def _drop_unused(jaxpr: ClosedJaxpr) -> ClosedJaxpr:
    """Drop the primitives that no output needs, such as those of an unused head."""
    used = [True] * len(jaxpr.jaxpr.outvars)
    needed, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, used, instantiate=True)
    return ClosedJaxpr(needed, jaxpr.consts)


def _free_variables(eqns: Sequence[JaxprEqn]) -> list[Var]:
    """Return the variables that primitives read and that none of them computes."""
    computed = {var for eqn in eqns for var in eqn.outvars}
    atoms = dict.fromkeys(
        atom for eqn in eqns for atom in eqn.invars if isinstance(atom, Var)
    )
    return [var for var in atoms if var not in computed]


def _marked_by_loop(eqn: JaxprEqn, marked: list[bool]) -> list[bool]:
    """Return which inputs of a loop's body are marked in some iteration."""
    (body,) = inner_jaxprs(eqn)
    constants, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    while True:
        outputs = Graph(body, marked).outputs()
        widened = list(marked)
        for i in range(carries):
            widened[constants + i] |= outputs[i]
        if widened == marked:
            return marked
        marked = widened


def _needed(operations: list[Operation], outputs: Iterable[Atom]) -> list[Operation]:
    """Drop operations that are parts of others, such as the inner ones of a region."""
    needed, kept = {atom for atom in outputs if isinstance(atom, Var)}, []
    for operation in reversed(operations):
        has_effects = any(eqn.effects for eqn in operation.eqns)
        if has_effects or needed & set(operation.outputs):
            kept.append(operation)
            needed |= {v for v in operation.inputs if isinstance(v, Var)}
    return kept[::-1]
