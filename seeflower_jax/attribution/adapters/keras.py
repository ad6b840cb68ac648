"""Keras on JAX: the outputs of layers, by the names of the layers.

Example:
    network = from_keras(keras.applications.ResNet50(classifier_activation=None))
    network.layers      # {"conv1_conv": (112, 112, 64), ...}
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution.adapters.kinds import check_kind
from seeflower_jax.attribution.adapters.names import name_outputs
from seeflower_jax.attribution.adapters.network import AdaptedNetwork
from seeflower_jax.attribution.types import Preprocess

_lock = threading.RLock()


def from_keras(
    model: Any,
    *,
    preprocess: Preprocess | None = None,
    output: Callable[[Any], Float[Array, "n c"]] | None = None,
    channels_first: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: Any,
) -> AdaptedNetwork:
    """Return a Keras model as a network function, in inference mode.

    A layer is the output of a Keras layer or operation, and has its name. The name of a
    layer within a layer starts with the outer names, as in `encoder/attention`. The
    network holds copies of the variables.

    The attention weights of `keras.layers.MultiHeadAttention` are the layer `softmax`
    within it. Keras computes them explicitly, rather than in one fused operation, even
    with `flash_attention=True`. A subclass has this layer only if its `call` has the
    argument `return_attention_scores`.

    A model that ends in a softmax returns probabilities. To explain logits, build it
    without the softmax, for example with `classifier_activation=None`.

    Args:
      model: a built `keras.Model`, with the JAX backend of Keras.
      preprocess, output, channels_first: see `AdaptedNetwork`.
      input_shape: see `AdaptedNetwork`. The default is the input shape of the model, if
        it has one.
      **arguments: more arguments of `model.call`.

    Raises:
      TypeError: the model is no Keras model.
      ValueError: the backend of Keras is not JAX, or the model is not built.

    Example:
      >>> import keras
      >>> model = keras.Sequential([
      ...     keras.Input((64, 64, 3)),
      ...     keras.layers.Conv2D(4, 3, name="conv"),
      ...     keras.layers.GlobalAveragePooling2D(name="pool"),
      ... ])
      >>> from_keras(model).layers
      {'conv': (62, 62, 4), 'pool': (4,)}
    """
    import keras

    if keras.backend.backend() != "jax":
        raise ValueError(
            f"the backend of Keras is {keras.backend.backend()!r}; expected 'jax'; set "
            "the environment variable KERAS_BACKEND=jax before Keras is imported"
        )
    check_kind("from_keras", model, keras.layers.Layer)
    if not model.built:
        raise ValueError(
            f"the Keras model {model.name!r} has no variables yet; call it on images "
            "first or build it by model.build((None, height, width, 3))"
        )
    layers = {}
    for path, layer in _layers(model):
        layers.setdefault(id(layer), (path, layer))  # A shared layer has one name.
    # Copies, because `fit` and `predict` of Keras donate the arrays of the model.
    variables = [jnp.array(variable.value) for variable in model.variables]

    def forward(variables, inputs):
        values = zip(model.variables, variables, strict=True)
        with _naming(layers), keras.StatelessScope(values):
            return model(inputs, training=False, **arguments)

    return AdaptedNetwork(
        forward,
        variables,
        preprocess,
        output,
        channels_first,
        input_shape=input_shape or _input_shape(model, channels_first),
    )


def _layers(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, layer or operation) for all layers and operations within a layer."""
    # Keras has no public list of the layers of a layer.
    inner_layers = [*getattr(layer, "operations", ()), *layer._layers]
    for inner in {id(inner): inner for inner in inner_layers}.values():
        name = f"{path}{_name_within(layer, inner)}"
        yield name, inner
        if hasattr(inner, "_layers"):
            yield from _layers(inner, f"{name}/")


def _name_within(outer: Any, inner: Any) -> str:
    """Return the name of a layer within a layer.

    Keras numbers the softmaxes of attention by the order in which a process makes them.
    """
    import keras

    is_attention = isinstance(outer, keras.layers.MultiHeadAttention)
    is_softmax = isinstance(inner, keras.layers.Softmax)
    return "softmax" if is_attention and is_softmax else inner.name


@contextlib.contextmanager
def _naming(layers: dict[int, tuple[str, Any]]) -> Iterator[None]:
    """Let layers name their outputs while Keras is traced.

    The layers of Keras cannot be copied, because the graph of a model refers to them.
    Another thread that calls the model during the trace gets the same outputs, since
    names do not change values.
    """
    with _lock, contextlib.ExitStack() as restore:
        for path, layer in layers.values():
            attributes = vars(layer)  # Keras would track an attribute set by `setattr`.
            changes = _changes(path, layer)
            replaced = {key: attributes[key] for key in changes if key in attributes}
            attributes.update(changes)
            restore.callback(attributes.update, replaced)
            for key in changes:
                restore.callback(attributes.pop, key)
        yield


def _changes(path: str, layer: Any) -> dict[str, Any]:
    """Return the attributes of a layer that names its outputs, such as `call`."""
    import keras

    call = layer.call

    @functools.wraps(call)
    def call_and_name(*positional, **keywords):
        return name_outputs(call(*positional, **keywords), path)

    @functools.wraps(call)
    def attend_and_name(*positional, return_attention_scores=False, **keywords):
        # Attention calls its layer `softmax` only if it returns the weights.
        keywords["return_attention_scores"] = True
        outputs, weights = call(*positional, **keywords)
        outputs = name_outputs(outputs, path)
        return (outputs, weights) if return_attention_scores else outputs

    # A subclass may have a `call` that does not return the weights.
    is_attention = isinstance(layer, keras.layers.MultiHeadAttention)
    if is_attention and "return_attention_scores" in inspect.signature(call).parameters:
        return {"call": attend_and_name, "_flash_attention": False}
    return {"call": call_and_name}


def _input_shape(model: Any, channels_first: bool) -> tuple[int, int, int] | None:
    """Return (height, width, channels) if the model accepts one shape only."""
    shape: Any = getattr(model, "input_shape", None)
    is_fixed = isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:]
    if not is_fixed:
        return None
    return (*shape[2:], shape[1]) if channels_first else shape[1:]
