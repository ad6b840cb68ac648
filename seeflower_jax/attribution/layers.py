"""The layers of class activation maps: one endpoint, several, or all that a head reads.

    names = resolve(network, images, "head")      # ["block3_pool", "block4_pool", ...]
    values = gradients(network, images, targets, names)
    activations, gradient = values["block4_pool"]

With several layers, no evidence may count twice. The gradient at each layer is
therefore the direct gradient, which leaves out the paths through the other layers. All
gradients come from one backward pass.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from seeflower_jax import hints
from seeflower_jax.attribution import dataflow
from seeflower_jax.attribution.jaxprs import CUSTOM_VJPS
from seeflower_jax.attribution.targets import score
from seeflower_jax.attribution.types import (
    EndpointShapes,
    Layer,
    NetworkFunction,
    Taps,
    Targets,
    endpoint_shapes,
)
from seeflower_jax.models.dtypes import as_float

HEAD = "head"  # stands for all layers that the head reads

# {layer: (activations, gradient of the score with respect to them)}
Gradients = dict[str, tuple[Float[Array, "n h w k"], Float[Array, "n h w k"]]]


def spatial_layers(endpoints: EndpointShapes) -> list[str]:
    """Return the names of the endpoints with a spatial extent, in order.

    An endpoint has a spatial extent if it is [N, h, w, C] with more than one position.

    Args:
      endpoints: {name: array or shape}.
    """
    return [
        name
        for name, value in endpoints.items()
        if len(value.shape) == 4 and value.shape[1] * value.shape[2] > 1
    ]


def check_layer(
    endpoints: EndpointShapes, layer: str, network: NetworkFunction | None = None
) -> None:
    """Check that a layer exists and has a spatial extent.

    Args:
      endpoints: {name: array or shape}.
      layer: name of an endpoint.
      network: the network of the endpoints. If it is adapted, the message names the
        primitive that hides the layer.

    Raises:
      ValueError: the layer is unknown or has no spatial extent. The message lists the
        layers with a spatial extent.
    """
    layers = spatial_layers(endpoints)
    if layer in layers:
        return
    if layer not in endpoints:
        raise unknown_layer(layer, layers, getattr(network, "hidden_layers", {}), HEAD)
    raise ValueError(
        f"layer {layer!r} has no spatial extent; layers are {layers}"
        f"{_hint_for_tokens(endpoints[layer].shape, network)}"
    )


def _hint_for_tokens(shape: tuple[int, ...], network: NetworkFunction | None) -> str:
    """Return what to do with a layer [n, t, c], which may be tokens, for a message."""
    if len(shape) != 3:
        return ""
    if not hasattr(network, "has_class_token"):  # see `tokens.TokenGrid`
        return "; for the tokens of a transformer, use tokens_to_grid"
    return (
        f"; its {shape[1]} tokens do not fit the image: pass `prefix`, the number of "
        "class and register tokens, and `grid`, (rows, columns) of the patches, to "
        "tokens_to_grid"
    )


def unknown_layer(
    layer: str, layers: Iterable[str], hidden: Mapping[str, str], *words: str
) -> ValueError:
    """Return the error for a layer that a network does not have.

    Args:
      layer: the unknown name.
      layers: names that the message lists.
      hidden: {name: primitive} of the layers inside primitives.
      *words: more words that the user may have meant, such as "head".

    Example:
      >>> print(unknown_layer("conv", ["conv1"], {}))
      layer 'conv' is unknown; layers are ['conv1']; did you mean 'conv1'?
    """
    names = list(layers)
    problem = f"is inside {hidden[layer]}" if layer in hidden else "is unknown"
    hint = hints.did_you_mean(layer, [*names, *words])
    return ValueError(f"layer {layer!r} {problem}; layers are {names}{hint}")


def check_layers(
    endpoints: EndpointShapes, layer: Layer, network: NetworkFunction | None = None
) -> list[str]:
    """Return the names of layers, each checked by `check_layer`.

    Args:
      endpoints: {name: array or shape}.
      layer: name of an endpoint, or several names.
      network: see `check_layer`.

    Raises:
      ValueError: a layer is unknown, has no spatial extent or is repeated, or no layer
        is given.
    """
    names = [layer] if isinstance(layer, str) else list(layer)
    if not names:
        raise ValueError(
            f"layer is {layer!r}; expected one name, several names or {HEAD!r}"
        )
    for number, name in enumerate(names):
        check_layer(endpoints, name, network)
        if name in names[:number]:
            raise ValueError(f"layer {name!r} is given more than once; give it once")
    return names


def resolve(
    network: NetworkFunction, images: Float[Array, "n h w 3"], layer: Layer
) -> list[str]:
    """Return the names of the layers that an argument `layer` means.

    Args:
      network, images: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head". "head" means all layers with
        a spatial extent that the logits depend on directly, not only through another
        such layer. If the network has a spatial layer named "head", the argument means
        this layer.

    Raises:
      ValueError: a layer is unknown, has no spatial extent or is repeated, or there is
        none. "head" is not known where the head reads class tokens.

    Example:
      >>> resolve(network, images, "head")
      ['block5_pool']
    """
    endpoints = endpoint_shapes(network, images)
    if layer != HEAD or HEAD in spatial_layers(endpoints):
        return check_layers(endpoints, layer, network)
    if getattr(network, "has_class_token", False):  # see `tokens.TokenGrid`
        raise ValueError(
            f"layer={HEAD!r} of a transformer is its class token, which has no place; "
            "name a layer below the last attention layer, such as the first "
            "normalisation of the last block"
        )
    taps = _zero_taps(endpoints, spatial_layers(endpoints))
    read = _read_directly(jax.make_jaxpr(lambda t: network(images, t)[0])(taps), taps)
    if not read:
        raise ValueError("the logits depend on no layer with a spatial extent")
    return [name for name in spatial_layers(endpoints) if name in read]


def resolve_one(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    layer: Layer,
    method: str,
) -> str:
    """Return the name of the only layer that an argument `layer` means.

    Args:
      network, images, layer: see `resolve`.
      method: name of the method, for the message.

    Raises:
      ValueError: there are several layers, or see `resolve`.

    Example:
      >>> resolve_one(network, images, ["block5_conv3"], "eigen_cam")
      'block5_conv3'
    """
    names = resolve(network, images, layer)
    check_single(method, names)
    return names[0]


def check_single(method: str, names: Sequence[str]) -> None:
    """Check that there is one layer, for a method that takes only one.

    Raises:
      ValueError: there are several layers.
    """
    if len(names) > 1:
        raise ValueError(
            f"{method} takes one layer, but layer means {len(names)}: "
            f"{', '.join(names)}; choose one of them"
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["array"],
    meta_fields=["replaces", "kept"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """A tap that stops the gradient of a layer from passing to the layers below.

    A network adds taps to its endpoints by the operator `+`. The sum of an endpoint and
    a cut has the value of the endpoint plus the array. Only the array gets a gradient.

    Attributes:
      array: an array of the endpoint's shape.
      replaces: whether the sum is the array alone, without the endpoint.
      kept: number of the first rows of the last axis but one, such as class tokens,
        that the array does not replace.

    Example:
      >>> jax.grad(lambda x: (3 * x + Cut(x)))(2.0)
      Array(1., dtype=float32, weak_type=True)
    """

    array: Array
    replaces: bool = False
    kept: int = 0

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    dtype = property(lambda self: self.array.dtype)

    def astype(self, dtype: jnp.dtype) -> "Cut":
        """Return the cut with an array of another type."""
        return dataclasses.replace(self, array=self.array.astype(dtype))

    def __radd__(self, value: Array) -> Array:
        value = jax.lax.stop_gradient(value)
        if not self.replaces:
            return value + self.array
        if not self.kept:
            return self.array
        first, others = value[..., : self.kept, :], self.array[..., self.kept :, :]
        return jnp.concatenate([first, others], -2)

    __add__ = __radd__


def gradients(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    names: Sequence[str],
) -> Gradients:
    """Return the activations of layers, and the gradients of the score there.

    The function adds taps of zeros to the layers and differentiates the score with
    respect to the taps. The backward pass therefore runs only through the layers above.
    With several layers, no gradient passes through one of them to another.

    Args:
      network, images, targets: see `seeflower_jax.attribution`. For several layers, the
        network must add taps by `+`.
      names: names that `resolve` returns.

    Raises:
      ValueError: the score does not depend on a layer, or depends on it only through
        the other layers.

    Example:
      >>> values = gradients(network, images, labels, ["block5_pool"])
      >>> activations, gradient = values["block5_pool"]
      >>> activations.shape == gradient.shape
      True
    """
    taps = _zero_taps(endpoint_shapes(network, images), names)

    def total_score(taps):
        logits, endpoints = network(images, taps)
        return score(logits, targets).sum(), [endpoints[name] for name in taps]

    closed = jax.make_jaxpr(total_score)(taps)
    _check_read(closed, taps)
    # Evaluating the jaxpr avoids a second trace of the network.
    evaluate = core.jaxpr_as_fun(closed)

    def evaluate_score(taps):
        total, *activations = evaluate(*jax.tree.leaves(taps))
        return total, activations

    by_name, activations = jax.grad(evaluate_score, has_aux=True)(taps)
    return {
        name: (
            as_float(value),
            as_float(jax.tree.leaves(by_name[name])[0]),
        )
        for name, value in zip(taps, activations, strict=True)
    }


def check_read(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    names: Sequence[str],
    *,
    through_stops: bool = False,
) -> None:
    """Check that the logits depend on each layer, not only through the other layers.

    Args:
      network, images: see `seeflower_jax.attribution`.
      names: names that `resolve` returns.
      through_stops: whether the logits may depend on a single layer only through
        `stop_gradient`, for a method without gradients.

    Raises:
      ValueError: the logits do not depend on a layer. The message names the first.

    Example:
      >>> check_read(network, images, ["block5_conv3"])
    """
    taps = _zero_taps(endpoint_shapes(network, images), names)
    closed = jax.make_jaxpr(lambda t: network(images, t)[0])(taps)
    _check_read(closed, taps, through_stops)


def _zero_taps(endpoints: EndpointShapes, names: Iterable[str]) -> Taps:
    """Return taps of zeros in JAX's key order: cuts, or an array for one layer."""
    # Inside `jax.shard_map`, `zeros_like` keeps the axes over which an endpoint varies.
    # The gradient of a tap without these axes would be a sum over the devices.
    zeros: dict[str, Any] = {
        name: jnp.zeros_like(endpoints[name]) for name in sorted(names)
    }
    if len(zeros) > 1:
        zeros = {name: Cut(array) for name, array in zeros.items()}
    return zeros


def _read_directly(
    closed: core.ClosedJaxpr, names: Iterable[str], through_stops: bool = False
) -> frozenset[str]:
    """Return the taps, the inputs of a jaxpr, that its first output depends on."""

    def union(equation, facts):
        # Names stop at a cut, because no gradient passes it.
        is_cut = equation.primitive.name == "stop_gradient" and not through_stops
        known = None if is_cut else frozenset().union(*filter(None, facts))
        return [known] * len(equation.outvars)

    facts = [frozenset([name]) for name in names]
    # A custom derivative may pass to any input of the call.
    read = dataflow.propagate(closed.jaxpr, facts, union, opaque=CUSTOM_VJPS)
    return read[0] or frozenset()


def _check_read(
    closed: core.ClosedJaxpr, taps: Collection[str], through_stops: bool = False
) -> None:
    read = _read_directly(closed, taps, through_stops)
    unread = [name for name in taps if name not in read]
    if not unread:
        return
    if len(taps) == 1:
        layer = f"layer {unread[0]!r}"
        is_stopped = unread[0] in _read_directly(closed, taps, through_stops=True)
        problem = (
            f"depends on {layer} only through stop_gradient"
            if is_stopped
            else f"does not depend on {layer}"
        )
        raise ValueError(
            f"the score {problem}, so its map would be zero; layer={HEAD!r} means the "
            "layers that the head reads"
        )
    raise ValueError(
        f"the score depends on layer {unread[0]!r} only through the other layers, or "
        "not at all, so its evidence would count twice; leave it out, or use "
        f"layer={HEAD!r} for the layers that the head reads"
    )
