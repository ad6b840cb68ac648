"""How a layer distributes its relevance: the rules of LRP.

    rule = by_depth((0.5, gamma(0.25)), (1.0, epsilon(1e-6)))
    positive, negative = rule(Layer(outputs, depth, signs))

A rule is a function of a `Layer`. It returns two factors for each output, which
multiply its derivative on the way to positive and to negative contributions. Rules with
the same values are equal, so JAX compiles a network with them once.

Sources: Bach et al. 2015, doi 10.1371/journal.pone.0130140; Montavon et al. 2019,
"Layer-wise relevance propagation: an overview", doi 10.1007/978-3-030-28954-6_10.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution.cam import divide

Values = Float[Array, "*shape"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """The outputs of a convolution or a matrix product, which a rule distributes.

    The layer includes the additions of and products with constants that follow it, such
    as its bias and batch normalisation.

    Attributes:
      outputs: sums of contributions x_i w_ij, plus the bias.
      depth: 0 next to the image, 1 next to the logits.
      signs: signs() returns the sums of the positive and of the negative contributions
        of each output. The bias is a contribution.
    """

    outputs: Values
    depth: float
    signs: Callable[[], tuple[Values, Values]]


# rule(layer) -> two factors for each output. They multiply its derivative on the way to
# positive and to negative contributions.
LayerRule = Callable[[Layer], tuple[Values, Values]]


def _number(value: float) -> float:
    """Return an array of one number as a number, so that rules are hashable."""
    is_number = jnp.ndim(value) == 0 and not isinstance(value, jax.core.Tracer)
    return float(value) if is_number else value


def epsilon(value: float = 1e-6) -> LayerRule:
    """Distribute relevance by contributions, and absorb a small part for stability.

    The part is value / (|z| + value) of the relevance of an output z. With a value of
    0, the rule is the basic rule, LRP-0.

    Source: Montavon et al. 2019, equation for LRP-epsilon; Bach et al. 2015, eq. 58.

    Example:
      >>> epsilon(1e-6) == epsilon(1e-6)
      True
    """
    return _Epsilon(_number(value))


@dataclasses.dataclass(frozen=True)
class _Epsilon:
    value: float

    def __call__(self, layer: Layer) -> tuple[Values, Values]:
        z = layer.outputs
        factor = divide(z, z + jnp.where(z < 0, -self.value, self.value))
        return factor, factor


def gamma(value: float = 0.25) -> LayerRule:
    """Give the contributions with the sign of the output more weight.

    For outputs after a ReLU, the weight of positive contributions is 1 + value. For
    negative outputs, which Montavon et al. do not treat, it is the weight of negative
    contributions.

    Source: Montavon et al. 2019, equation for LRP-gamma; Andeol et al. 2021, "Learning
    domain invariant representations by joint Wasserstein distance minimization",
    for both signs.

    Example:
      >>> gamma(0.25) == gamma(0.5)
      False
    """
    return _Gamma(_number(value))


@dataclasses.dataclass(frozen=True)
class _Gamma:
    value: float

    def __call__(self, layer: Layer) -> tuple[Values, Values]:
        z, (positive, negative) = layer.outputs, layer.signs()
        favoured = jnp.where(z < 0, negative, positive)
        factor = divide(z, z + self.value * favoured)
        more = factor * (1 + self.value)
        return jnp.where(z < 0, factor, more), jnp.where(z < 0, more, factor)


def alpha_beta(alpha: float = 2.0, beta: float = 1.0) -> LayerRule:
    """Distribute alpha R to positive contributions and -beta R to negative ones.

    Relevance is conserved where an output has contributions of both signs.

    Source: Bach et al. 2015, equation 60; Montavon et al. 2019 for the sign of beta.

    Raises:
      ValueError: alpha - beta is not 1.

    Example:
      >>> rule = alpha_beta(1.0, 0.0)
    """
    if abs(alpha - beta - 1) > 1e-6:
        raise ValueError(
            f"alpha {alpha} and beta {beta} differ by {alpha - beta}; expected 1, so "
            "that relevance is conserved"
        )
    return _AlphaBeta(_number(alpha), _number(beta))


@dataclasses.dataclass(frozen=True)
class _AlphaBeta:
    alpha: float
    beta: float

    def __call__(self, layer: Layer) -> tuple[Values, Values]:
        positive, negative = layer.signs()
        return (
            self.alpha * divide(layer.outputs, positive),
            -self.beta * divide(layer.outputs, negative),
        )


def by_depth(*parts: tuple[float, LayerRule]) -> LayerRule:
    """Use different rules for different depths (a composite).

    Args:
      *parts: (depth up to which the rule is used, rule), from the image to the logits.
        Depth 0.5 is the middle of the convolutions and matrix products, in the order of
        the computation.

    Raises:
      ValueError: depths are not in ascending order, or do not end with 1.

    Example:
      >>> rule = by_depth((0.5, gamma()), (1.0, epsilon()))
    """
    depths = [depth for depth, _ in parts]
    if depths != sorted(depths) or depths[-1:] != [1.0]:
        raise ValueError(
            f"the parts of a composite end at depths {depths}; expected rising numbers "
            "that end with 1.0"
        )
    return _ByDepth(tuple((_number(depth), rule) for depth, rule in parts))


@dataclasses.dataclass(frozen=True)
class _ByDepth:
    parts: tuple[tuple[float, LayerRule], ...]

    def __call__(self, layer: Layer) -> tuple[Values, Values]:
        return next(rule(layer) for depth, rule in self.parts if layer.depth <= depth)
