"""How the primitives of a jaxpr treat the values that depend on the images.

    graph = Graph(jaxpr, marked=[True])
    kind, eqns = graph.classify(jaxpr.eqns[-1])

A value that depends on the images is *marked*. The calls in the jaxpr must be inlined,
see `jaxprs`.
"""

import enum
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from seeflower_jax.attribution.jaxprs import CHECKPOINTS, Atom, run


class Kind(enum.Enum):
    """How an operation treats the values that depend on the images.

    The value of a kind is the name of the method of `Rules` that computes it.
    Operations of the last three kinds contain plans.
    """

    CONSTANT = "constant"  # independent of the images
    LINEAR = "linear"  # linear in all marked values, plus a constant
    LAYER = "layer"  # a convolution or a matrix product with constant weights
    ELEMENTWISE = "elementwise"  # a nonlinear function of each element of one value
    PRODUCT = "product"  # a product of two marked values
    QUOTIENT = "quotient"  # a division by a marked value
    EXTREMUM = "extremum"  # maxima or minima of marked values, such as pooling
    DISCRETE = "discrete"  # integers and booleans, such as comparisons
    OTHER = "other"
    CHECKPOINT = "checkpoint"
    SCAN = "scan"
    COND = "cond"


CONTROL = dict.fromkeys(CHECKPOINTS, Kind.CHECKPOINT)
CONTROL |= {"scan": Kind.SCAN, "cond": Kind.COND}
# Primitives that move the elements of their only input, and keep all of them.
REARRANGES = {"expand_dims", "reshape", "squeeze", "transpose"}
# Primitives that choose or copy elements.
MOVES = {
    "broadcast_in_dim", "concatenate", "dynamic_slice", "expand_dims", "gather", "pad",
    "reshape", "rev", "slice", "split", "squeeze", "transpose",
}  # fmt: skip
# Primitives that scale or shift the elements of one value.
RESCALES = {
    "add", "convert_element_type", "copy", "copy_p", "div", "mul", "name",
    "neg", "reduce_precision", "sub",
}  # fmt: skip
# Primitives that keep a constant zero. Inside `jax.shard_map`, constants have `pvary`.
_KEEP_ZERO = {"broadcast_in_dim", "convert_element_type", "pvary"}
_ORDER = {"gt", "ge", "lt", "le"}
_ROOTS = {"rsqrt", "sqrt"}
# Primitives between x and the maximum in x - max(x).
_TO_MAXIMUM = REARRANGES | {"broadcast_in_dim", "max", "reduce_max", "stop_gradient"}
_AFFINE = {
    "add", "add_any", "sub", "neg", "mul", "div", "select_n", "convert_element_type",
    "copy", "copy_p", "name", "reduce_precision",
}  # fmt: skip
_CURVED = {
    "abs", "acos", "acosh", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "clamp", "cos", "cosh", "digamma", "eq", "erf", "erf_inv", "erfc", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "lgamma",
    "log", "log1p", "logistic", "lt", "max", "min", "ne", "nextafter", "not", "or",
    "pow", "rem", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square",
    "stop_gradient", "tan", "tanh", "xor",
}  # fmt: skip
_EXTREMA = {
    "cummax", "cummin", "max_pool", "reduce_max", "reduce_min", "reduce_window_max",
    "reduce_window_min",
}  # fmt: skip
_WEIGHTED = {"conv_general_dilated", "convolution", "dot_general"}


class Graph:
    """The primitives of a jaxpr, and which of their values are marked.

    Every output of a primitive with a marked input is marked.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda x: jnp.sin(2 * x))(1.0)
      >>> graph = Graph(jaxpr, marked=[True])
      >>> [graph.classify(eqn)[0].value for eqn in jaxpr.eqns]
      ['linear', 'elementwise']
    """

    def __init__(self, jaxpr: ClosedJaxpr, marked: Sequence[bool]):
        invars, eqns = jaxpr.jaxpr.invars, jaxpr.jaxpr.eqns
        self._jaxpr = jaxpr.jaxpr
        self._marked = {v for v, mark in zip(invars, marked, strict=True) if mark}
        self._order = {var: i for i, eqn in enumerate(eqns) for var in eqn.outvars}
        self._zeros = {
            var
            for var, value in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)
            if _is_zero_value(value)
        }
        self._users: dict[Var, list[JaxprEqn]] = defaultdict(list)
        for eqn in eqns:
            for atom in eqn.invars:
                if isinstance(atom, Var):
                    self._users[atom].append(eqn)
        for eqn in eqns:
            if self.marked_inputs(eqn):
                self._marked.update(eqn.outvars)
            elif eqn.primitive.name in _KEEP_ZERO and self._is_zero(eqn.invars[0]):
                self._zeros.update(eqn.outvars)
        self._bounded = {
            atom
            for eqn in eqns
            if eqn.primitive.name == "min" and any(map(self._is_zero, eqn.invars))
            for atom in eqn.invars
            if isinstance(atom, Var)
        }

    def is_marked(self, atom: Atom) -> bool:
        """Return whether a variable depends on the images."""
        return isinstance(atom, Var) and atom in self._marked

    def marked_inputs(self, eqn: JaxprEqn) -> list[Var]:
        """Return the marked inputs of a primitive, by position."""
        return [v for v in eqn.invars if isinstance(v, Var) and v in self._marked]

    def outputs(self) -> list[bool]:
        """Return which outputs of the jaxpr are marked."""
        return [self.is_marked(atom) for atom in self._jaxpr.outvars]

    def _is_zero(self, atom: Atom) -> bool:
        if isinstance(atom, Literal):
            return _is_zero_value(atom.val)
        return atom in self._zeros

    def classify(self, eqn: JaxprEqn) -> tuple[Kind, tuple[JaxprEqn, ...]]:
        """Return the kind of a primitive and the primitives of its function.

        All kinds but `ELEMENTWISE` have functions of one primitive.
        """
        name, marked = eqn.primitive.name, self.marked_inputs(eqn)
        if not marked:
            return Kind.CONSTANT, (eqn,)
        if name in CONTROL:
            return CONTROL[name], (eqn,)
        if not any(map(_is_float, eqn.outvars)):
            return Kind.DISCRETE, (eqn,)
        if name in _AFFINE | _CURVED:
            return self._classify_elementwise(eqn)
        if name in _EXTREMA:
            return Kind.EXTREMUM, (eqn,)
        if name in _WEIGHTED:
            return (Kind.LAYER if len(marked) == 1 else Kind.PRODUCT), (eqn,)
        return (Kind.LINEAR if self._is_linear(eqn) else Kind.OTHER), (eqn,)

    def _classify_elementwise(self, eqn: JaxprEqn) -> tuple[Kind, tuple[JaxprEqn, ...]]:
        name = eqn.primitive.name
        if self._is_affine(eqn):
            return Kind.LINEAR, (eqn,)
        region = self._region(eqn)
        if region:
            return Kind.ELEMENTWISE, region
        by_name = {"mul": Kind.PRODUCT, "div": Kind.QUOTIENT}
        by_name |= {"max": Kind.EXTREMUM, "min": Kind.EXTREMUM}
        return by_name.get(name, Kind.OTHER), (eqn,)

    def _is_affine(self, eqn: JaxprEqn) -> bool:
        """Return whether an elementwise primitive is linear in the marked values."""
        name, marked = eqn.primitive.name, self.marked_inputs(eqn)
        if name not in _AFFINE or not all(map(_is_float, marked)):
            return False
        if name == "mul":
            return len(marked) == 1
        if name == "div":
            return not self.is_marked(eqn.invars[1])
        return True

    def _region(self, eqn: JaxprEqn) -> tuple[JaxprEqn, ...]:
        """Return the smallest elementwise function of one value that ends here.

        It is empty if there is none, as for the product of the outputs of two layers.
        """
        region, shape = [eqn], _shape(eqn.outvars[0])
        frontier = set(self.marked_inputs(eqn))
        while len(frontier) > 1 or not all(map(_is_float, frontier)):
            latest = max(frontier, key=lambda var: self._order.get(var, -1))
            if latest not in self._order:
                return ()
            before = self._jaxpr.eqns[self._order[latest]]
            is_elementwise = before.primitive.name in _AFFINE | _CURVED
            if not is_elementwise or _shape(latest) != shape:
                return ()
            region.append(before)
            frontier = frontier - {latest} | set(self.marked_inputs(before))
        (root,) = frontier
        fits = len(region) == 1 or _shape(root) == shape
        return tuple(reversed(region)) if fits else ()

    def _is_linear(self, eqn: JaxprEqn) -> bool:
        """Return whether a primitive is linear in its marked inputs, plus a constant.

        This holds if the tangent of its outputs does not depend on the input values.
        """
        marked = list(dict.fromkeys(self.marked_inputs(eqn)))
        if not all(map(_is_float, marked)):
            return False
        constants = [v for v in eqn.invars if isinstance(v, Var) and v not in marked]

        def tangent(values, tangents, constant_values):
            def function(*values):
                arrays = (*values, *constant_values)
                env = dict(zip((*marked, *constants), arrays, strict=True))
                return run([eqn], env, eqn.outvars)

            return jax.jvp(function, values, tangents)[1]

        values, others = list(map(_struct, marked)), list(map(_struct, constants))
        try:
            jaxpr = jax.make_jaxpr(tangent)(values, values, others)
        except (NotImplementedError, ValueError):  # no derivative, as of a callback
            return False
        is_value = [True] * len(values) + [False] * len(values + others)
        return not any(Graph(jaxpr, is_value).outputs())

    def chain(self, eqn: JaxprEqn) -> tuple[JaxprEqn, ...]:
        """Return the additions of and products with constants that follow a layer.

        The elements may be rearranged in between. Frameworks that compute one image at
        a time do so before they add a bias.
        """
        chain, output = [], eqn.outvars[0]
        while len(self._users[output]) == 1 and output not in self._jaxpr.outvars:
            (user,) = self._users[output]
            name, shape = user.primitive.name, _shape(user.outvars[0])
            if name not in REARRANGES:
                if name not in _AFFINE - {"select_n"} or shape != _shape(output):
                    break
                if not self._is_affine(user) or len(self.marked_inputs(user)) > 1:
                    break
            chain.append(user)
            output = user.outvars[0]
        return tuple(chain)

    def is_shift(self, eqn: JaxprEqn) -> bool:
        """Return whether a primitive is the subtraction in exp(x - max(x)).

        The maximum has no effect on a softmax. It only prevents an overflow.
        """
        users = {user.primitive.name for user in self._users[eqn.outvars[0]]}
        if eqn.primitive.name != "sub" or users != {"exp"}:
            return False
        x, source = eqn.invars
        names: set[str] = set()
        while source is not x and self.is_marked(source) and source in self._order:
            before = self._jaxpr.eqns[self._order[source]]
            names.add(before.primitive.name)
            source = self.marked_inputs(before)[0]
        return source is x and "reduce_max" in names and names <= _TO_MAXIMUM

    def is_rectifier(self, eqns: tuple[JaxprEqn, ...]) -> bool:
        """Return whether an elementwise function is max(x, 0).

        If the network also has min(x, 0), both are parts of another activation, such as
        `jax.nn.celu`.

        The lower bound of a variance is not a rectifier. Normalisations in Flax and
        Equinox compute rsqrt(max(variance, 0) + epsilon).
        """
        *before, last = eqns
        if self._is_radicand(last.outvars[0]):
            return False
        names = [eqn.primitive.name for eqn in eqns]
        if names == ["max"]:
            is_alone = self._bounded.isdisjoint(self.marked_inputs(last))
            return is_alone and any(map(self._is_zero, last.invars))
        if names[0] not in _ORDER:
            return False
        x, threshold = before[0].invars
        if not self._is_zero(threshold):
            return False
        if names[1:] == ["select_n"]:  # where(x > 0, x, 0)
            _, otherwise, chosen = last.invars
            if names[0] in ("lt", "le"):
                otherwise, chosen = chosen, otherwise
            return self._is_zero(otherwise) and chosen is x
        is_product = names[1:] == ["convert_element_type", "mul"]  # x * (x > 0)
        return is_product and names[0] in ("gt", "ge") and x in last.invars

    def _is_radicand(self, var: Var) -> bool:
        """Return whether a value is used in square roots only, up to constants."""
        users = self._users[var]
        return bool(users) and all(
            user.primitive.name in _ROOTS
            or user.primitive.name in MOVES | RESCALES
            and len(self.marked_inputs(user)) == 1
            and self._is_radicand(user.outvars[0])
            for user in users
        )


def _is_zero_value(value: Any) -> bool:
    """Return whether a constant is a single zero. Traced values are not known."""
    is_array = isinstance(value, np.ndarray | np.generic | jax.Array | float | int)
    if not is_array or isinstance(value, jax.core.Tracer):
        return False
    is_key = jnp.issubdtype(jax.typeof(value).dtype, jax.dtypes.extended)
    # Inside `jit`, functions of `jnp` would trace the value.
    return not is_key and np.size(value) == 1 and not np.asarray(value).any()


def _is_float(var: Atom) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def _shape(var: Atom) -> tuple[int, ...]:
    return var.aval.shape


def _struct(var: Atom) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)
