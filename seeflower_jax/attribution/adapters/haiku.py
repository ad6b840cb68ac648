"""Haiku: the outputs of modules, by the names of the modules.

Example:
    network = from_haiku(transformed.apply, params, state, is_training=False)
    network.layers      # {"res_net50/~/initial_conv": (112, 112, 64), ...}
"""

import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.adapters.names import interceptor
from seeflower_jax.attribution.adapters.network import AdaptedNetwork
from seeflower_jax.attribution.types import Preprocess, Variables


def from_haiku(
    apply: Callable[..., Any],
    params: Variables,
    state: Variables | None = None,
    *,
    rng: Key[Array, ""] | None = None,
    preprocess: Preprocess | None = None,
    output: Callable[[Any], Float[Array, "n c"]] | None = None,
    channels_first: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: Any,
) -> AdaptedNetwork:
    """Return a transformed Haiku function as a network function.

    A layer is the output of `__call__` of a module. Its name is the name that the
    module has in `params`, such as `res_net50/~/initial_conv`.

    Args:
      apply: the function `apply` of `hk.transform`, `hk.transform_with_state` or
        `hk.without_apply_rng`.
      params: the parameters.
      state: the state, for `hk.transform_with_state`. The network ignores the state
        that `apply` returns.
      rng: a random key, if `apply` needs one.
      preprocess, output, channels_first, input_shape: see `AdaptedNetwork`. `output`
        receives what the function returns, without the state.
      **arguments: more arguments of `apply`, such as `is_training=False`. In training
        mode, batch normalisation makes the map of an image depend on its batch.

    Raises:
      ValueError: `apply` takes a state and none is given, or takes none and one is
        given.

    Example:
      >>> import haiku as hk
      >>> f = hk.transform(lambda x: hk.Conv2D(4, 3)(x).mean((1, 2)))
      >>> params = f.init(jax.random.key(0), images)
      >>> from_haiku(f.apply, params, input_shape=(64, 64, 3)).layers
      {'conv2_d': (64, 64, 4)}
    """
    import haiku as hk

    takes = inspect.signature(apply).parameters
    if ("state" in takes) != (state is not None):
        raise ValueError(
            "apply takes a state; pass the state of hk.transform_with_state"
            if state is None
            else "apply takes no state; leave the state out"
        )
    # A jitted function may have been traced before, when its values had no names.
    function = inspect.unwrap(apply) if hasattr(apply, "lower") else apply

    def forward(variables, inputs):
        params, state, rng = variables
        leading = [params]
        leading += [state] if "state" in takes else []
        leading += [rng] if "rng" in takes else []
        with hk.intercept_methods(interceptor(_layer_name)):
            outputs = function(*leading, inputs, **arguments)
        return outputs[0] if "state" in takes else outputs

    return AdaptedNetwork(
        forward,
        (params, state, rng),
        preprocess,
        output,
        channels_first,
        input_shape=input_shape,
    )


def _layer_name(module: Any) -> str:
    """Return the name of a module, or "" if it returns parameters, as in `hk.lift`."""
    # The class is not public.
    is_lift = type(module).__name__ == "LiftingModule"
    return "" if is_lift else module.module_name
