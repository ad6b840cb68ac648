"""Flax NNX: the outputs of submodules, named by their paths.

Example:
    network = from_nnx(model)
    network.layers      # {"block1/conv": (32, 32, 16), ...}
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution.adapters.kinds import check_kind
from seeflower_jax.attribution.adapters.names import name_outputs
from seeflower_jax.attribution.adapters.network import AdaptedNetwork
from seeflower_jax.attribution.types import Preprocess


def from_nnx(
    model: Any,
    *,
    preprocess: Preprocess | None = None,
    output: Callable[[Any], Float[Array, "n c"]] | None = None,
    channels_first: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: Any,
) -> AdaptedNetwork:
    """Return a Flax NNX model as a network function, in evaluation mode.

    A layer is the output of `__call__` of a submodule. Its name is the path of the
    submodule, such as `blocks/1/conv`. The network holds the current values of the
    model. It calls copies of the model after `copy.eval()`, so the model keeps its mode
    and its state.

    In the copies, the class of a submodule is a subclass of its class. A model must
    therefore test its submodules by `isinstance(layer, nnx.Conv)`, not by
    `type(layer) is nnx.Conv`.

    Args:
      model: a `flax.nnx.Module`.
      preprocess, output, channels_first, input_shape: see `AdaptedNetwork`.
      **arguments: more arguments of `model.__call__`.

    Raises:
      TypeError: the model is no object of `flax.nnx.Module`.

    Example:
      >>> from flax import nnx
      >>> class Net(nnx.Module):
      ...     def __init__(self):
      ...         self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
      ...     def __call__(self, x):
      ...         return self.conv(x).mean((1, 2))
      >>> from_nnx(Net(), input_shape=(64, 64, 3)).layers
      {'conv': (64, 64, 4)}
    """
    from flax import nnx

    check_kind("from_nnx", model, nnx.Module)
    graph, variables = nnx.split(model)
    variables = jax.tree.map(lambda array: array, variables)  # a new pytree

    def forward(variables, inputs):
        copy = nnx.merge(graph, variables)
        copy.eval()
        for path, module in nnx.iter_modules(copy):
            if path and callable(module):
                module.__class__ = _naming(type(module), "/".join(map(str, path)))
        return copy(inputs, **arguments)

    return AdaptedNetwork(
        forward, variables, preprocess, output, channels_first, input_shape=input_shape
    )


@functools.cache  # JAX keeps pytree classes forever, so each class and path has one.
def _naming(cls: type, path: str) -> type:
    """Return a subclass of a module that names the outputs of its calls.

    The path is not an attribute of the module, because a module may refuse those that
    it does not know.
    """

    def call(self, *positional, **keywords):
        return name_outputs(cls.__call__(self, *positional, **keywords), path)

    from flax.nnx import bridge

    # Subclasses do not inherit `pytree=False`. Those of `bridge.Module` set it
    # themselves, and take no argument.
    is_pytree = getattr(cls, "_pytree__is_pytree", True)
    sets_it = issubclass(cls, bridge.Module)
    options = {} if is_pytree or sets_it else {"pytree": False}
    return type(cls)(cls.__name__, (cls,), {"__call__": call}, **options)
