"""Functions: the values that `jax.ad_checkpoint.checkpoint_name` names.

Example:
    network = from_function(f)
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from seeflower_jax.attribution.adapters.network import AdaptedNetwork
from seeflower_jax.attribution.types import Preprocess


def from_function(
    function: Callable[..., Any],
    variables: Any = None,
    *,
    preprocess: Preprocess | None = None,
    output: Callable[[Any], Float[Array, "n c"]] | None = None,
    channels_first: bool = False,
    single: bool = False,
    input_shape: tuple[int, int, int] | None = None,
) -> AdaptedNetwork:
    """Return a function of images with named values as a network function.

    A layer is a value that the function names by
    `jax.ad_checkpoint.checkpoint_name(value, name)`. Name values outside of `jax.vmap`,
    which may put the mapped axis anywhere. For a function of one image, pass
    `single=True` rather than `jax.vmap(function)`.

    Args:
      function: maps images to logits, or variables and images to logits.
      variables: a pytree of arrays, the first argument of the function.
      preprocess, output, channels_first, single, input_shape: see `AdaptedNetwork`.

    Example:
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> def f(images):
      ...     return checkpoint_name(images[:, ::4, ::4] / 255, "small").sum((1, 2))
      >>> network = from_function(f, input_shape=(64, 64, 3))
      >>> network.layers
      {'small': (16, 16, 3)}
    """

    def forward(variables, inputs):
        leading = () if variables is None else (variables,)
        return function(*leading, inputs)

    return AdaptedNetwork(
        forward, variables, preprocess, output, channels_first, single, input_shape
    )
