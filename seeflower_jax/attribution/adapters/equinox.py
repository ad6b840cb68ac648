"""Equinox: the outputs of submodules, named by their paths.

Example:
    network = from_equinox(model)
    network.layers      # {"layers/0": (32, 32, 16), ...}
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


def from_equinox(
    model: Any,
    state: Any = None,
    *,
    preprocess: Preprocess | None = None,
    output: Callable[[Any], Float[Array, "c"]] | None = None,
    channels_first: bool = True,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: Any,
) -> AdaptedNetwork:
    """Return an Equinox model as a network function, in inference mode.

    A layer is the output of `__call__` of a submodule, without its state. Its name is
    the path of the submodule, such as `layers/0`. The model takes one image, and the
    network maps it over a batch.

    In the copy that the network calls, the class of a submodule is a subclass of its
    class. A model must therefore test its submodules by `isinstance(layer,
    eqx.nn.Conv2d)`, not by `type(layer) is eqx.nn.Conv2d`.

    Args:
      model: an `equinox.Module` that takes one image. The network calls a copy, which
        `equinox.nn.inference_mode` returns.
      state: an `equinox.nn.State`, for a model that takes and returns one. The network
        ignores the state that the model returns.
      preprocess, output, channels_first, input_shape: see `AdaptedNetwork`. `output`
        receives what the model returns for one image, without the state.
      **arguments: more arguments of `model.__call__`, such as `key`.

    Raises:
      TypeError: the model is no object of `equinox.Module`.
      ValueError: layers have a state, but `state` is None. When the network is called,
        the model stacks its submodules, or selects one of them by `jax.lax.cond`.

    Example:
      >>> import equinox as eqx
      >>> model = eqx.nn.Sequential([
      ...     eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0)),
      ...     eqx.nn.Lambda(lambda x: x.mean((1, 2))),
      ... ])
      >>> from_equinox(model, input_shape=(64, 64, 3)).layers
      {'layers/0': (62, 62, 4), 'layers/1': (4,)}
    """
    import equinox as eqx

    check_kind("from_equinox", model, eqx.Module)
    if state is None and _has_state(model):
        raise ValueError(
            "layers of the model have a state; pass it as `state`, as in model, state "
            "= eqx.nn.make_with_state(Model)(...) and from_equinox(model, state)"
        )
    model = eqx.nn.inference_mode(model)
    variables, static = eqx.partition((model, state), eqx.is_array)

    def forward(variables, image):
        model, state = eqx.combine(variables, static)
        model = _named(model, "")
        inputs = (image,) if state is None else (image, state)
        try:
            outputs = model(*inputs, **arguments)
        except (TypeError, ValueError) as error:
            if "pytree metadata" not in str(error):
                raise
            raise ValueError(
                "the model stacks or selects its submodules while it is called, but "
                "from_equinox gives them different names; name values by "
                "jax.ad_checkpoint.checkpoint_name, and pass the model to "
                "from_function with single=True and channels_first=True"
            ) from error
        return outputs if state is None else outputs[0]

    return AdaptedNetwork(
        forward, variables, preprocess, output, channels_first, True, input_shape
    )


def _has_state(model: Any) -> bool:
    """Return whether layers of a model, such as `BatchNorm`, have a state."""
    import equinox as eqx

    def is_index(value):
        return isinstance(value, eqx.nn.StateIndex)

    return any(map(is_index, jax.tree.leaves(model, is_leaf=is_index)))


def _named(module: Any, path: str) -> Any:
    """Return a copy of a module in which the calls of submodules name their outputs."""
    import equinox as eqx

    def visit(keys, node):
        inner = jax.tree_util.keystr(keys, simple=True, separator="/")
        is_module = isinstance(node, eqx.Module)
        return _named(node, f"{path}/{inner}".lstrip("/")) if is_module else node

    copy = jax.tree_util.tree_map_with_path(
        visit, module, is_leaf=lambda x: isinstance(x, eqx.Module) and x is not module
    )
    # `Shared` returns modules and weights.
    if not (path and callable(copy)) or isinstance(copy, eqx.nn.Shared):
        return copy
    cls: Any = type(copy)
    named = object.__new__(_naming(cls))
    vars(named).update(vars(copy), _layer_of_adapter=path)
    return named


@functools.cache  # JAX keeps pytree classes forever, so each has one.
def _naming(cls: type) -> type:
    """Return a subclass of a module that names the outputs of its calls."""
    import equinox as eqx

    def call(self, *positional, **keywords):
        outputs = cls.__call__(self, *positional, **keywords)
        name = functools.partial(
            name_outputs, name=self._layer_of_adapter, skip=_has_no_layers
        )
        match outputs:
            case (values, eqx.nn.State() as state):
                return name(values), state
        return name(outputs)

    fields = {
        "__annotations__": {"_layer_of_adapter": str},
        "_layer_of_adapter": eqx.field(static=True, default=""),
        "__call__": call,
        "__module__": cls.__module__,
    }
    return type(cls)(cls.__name__, (cls,), fields)


def _has_no_layers(value: Any) -> bool:
    """Return whether the arrays of a returned value are a state or parameters."""
    import equinox as eqx

    is_layer = isinstance(value, eqx.Module) and callable(value)
    return is_layer or isinstance(value, eqx.nn.State)
