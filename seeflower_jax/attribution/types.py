"""Types that the attribution methods share.

    def my_method(
        network: NetworkFunction,
        images: Float[Array, "n h w 3"],
        targets: Targets = None,
    ) -> Float[Array, "n h w"]: ...

The types document calls. Nothing checks shapes at run time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Int, Shaped

# Flax variables: {"params": {...}, "batch_stats": {...}}.
Variables = Mapping[str, Any]

# The outputs of named layers: [N, h, w, C] or [N, C].
Endpoints = Mapping[str, Shaped[Array, "n ..."]]

# Endpoints, or the shapes that `jax.eval_shape` returns for them.
EndpointShapes = Mapping[str, Array | jax.ShapeDtypeStruct]

# Arrays that a network adds by `+` to its endpoints of the same names.
Taps = Mapping[str, Shaped[Array, "n ..."]]

# Computes the score of each image from its logits.
ScoreFunction = Callable[[Float[Array, "n c"]], Float[Array, "n"]]

# The layers of a class activation map: the name of an endpoint, several names, or
# "head" for all layers that the head reads.
Layer = str | Sequence[str]

# The score to explain: None for the logit of the predicted class, class indices for
# the logits of these classes, or a function of the logits.
Targets = None | Int[Array, "n"] | ScoreFunction

# An attribution method: (network, images, targets, ...) -> maps.
MethodFunction = Callable[..., Float[Array, "n h w"]]

# Transforms images before a network sees them, such as whitening.
Preprocess = Callable[[Float[Array, "n h w 3"]], Float[Array, "n h w 3"]]


class NetworkFunction(Protocol):
    """A network as a pure function of images, with its variables bound.

    Example: `functools.partial(models.apply, spec, variables)` is a network function.
    """

    def __call__(
        self, images: Float[Array, "n h w 3"], taps: Taps | None = None
    ) -> tuple[Float[Array, "n c"], Endpoints]:
        """Return the logits and the endpoints of a batch of images.

        Args:
          images: RGB in [0, 255].
          taps: arrays to add to endpoints. The gradient with respect to a tap of zeros
            is the gradient at that endpoint. Methods without a `layer` never pass taps.
        """
        ...


def as_pytree(value: Any) -> Any:
    """Return a function as a pytree without leaves, and other values as they are.

    `jit` takes pytrees as arguments, but not plain functions.
    """
    is_function = callable(value) and jax.tree_util.all_leaves([value])
    return jax.tree_util.Partial(value) if is_function else value


def endpoint_shapes(
    network: NetworkFunction, images: Float[Array | jax.ShapeDtypeStruct, "n h w 3"]
) -> EndpointShapes:
    """Return the shapes of a network's endpoints, without computing them.

    Raises:
      ValueError: the network does not return (logits, endpoints).
    """
    outputs = jax.eval_shape(network, images)
    match outputs:
        case (_, Mapping() as endpoints):
            return endpoints
    raise ValueError(
        f"the network returns {jax.tree.map(lambda x: list(x.shape), outputs)}; "
        "expected (logits, endpoints), where endpoints is {layer: value}; for a "
        "function that returns the logits alone, use from_function(function)"
    )
