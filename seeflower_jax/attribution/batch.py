"""Several attribution methods on a batch of images, compiled together.

    explain = make_explainer(spec, ["saliency", "grad_cam"], layer="mixed7")
    logits, targets, maps = explain(variables, images, targets, keys)
    maps["grad_cam"]    # float32 [N, H, W]

    maps = explain(network, images, ["saliency", "grad_cam"])     # any network

Up to `TOGETHER` methods are compiled as one function, so their shared work, such as the
forward pass, runs once.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from seeflower_jax import hints, models
from seeflower_jax.attribution import layers, registry
from seeflower_jax.attribution.targets import as_indices, resolve, to_arrays
from seeflower_jax.attribution.types import (
    EndpointShapes,
    Layer,
    NetworkFunction,
    Preprocess,
    Targets,
    Variables,
    as_pytree,
)
from seeflower_jax.models import classifier
from seeflower_jax.models.functional import endpoint_shapes

# XLA's compiler for CPUs ends with a stack overflow if a function has some thousand
# kernels. More methods than these are therefore compiled as several functions.
TOGETHER = 6


class ExplainFunction(Protocol):
    """The function that `make_explainer` returns."""

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "n h w 3"] | UInt8[Array, "n h w 3"],
        targets: Int[Array, "n"],
        keys: Key[Array, "n"],
    ) -> tuple[Float[Array, "n c"], Int[Array, "n"], dict[str, Float[Array, "n h w"]]]:
        """Return the logits, the explained classes and {method: maps}.

        Args:
          variables: the network's variables.
          images: RGB in [0, 255].
          targets: class indices; `registry.PREDICTED` stands for the predicted class.
          keys: one random key per image.

        Raises:
          ValueError: an image has values that are not finite.
        """
        ...


def check_images(images: Float[Array, "n h w 3"] | UInt8[Array, "n h w 3"]) -> None:
    """Check that all values of all images are finite.

    The check passes for integers. It does nothing inside `jit`, where values are not
    known.

    Raises:
      ValueError: an image has a value that is not finite. The message names the first
        such image.
    """
    is_concrete = not isinstance(images, jax.core.Tracer)
    if is_concrete and jnp.issubdtype(images.dtype, jnp.floating):
        # Inside `jit`, the values of images that are not its arguments are known.
        with jax.ensure_compile_time_eval():
            is_finite = np.asarray(jnp.isfinite(images).all((1, 2, 3)))
        if not is_finite.all():
            raise ValueError(
                f"image {is_finite.argmin()} of the batch has values that are not "
                "finite (NaN or infinite); expected RGB from 0 to 255"
            )


def _check_targets(targets: Int[Array, "n"], shape: tuple[int, int]) -> None:
    """Check class indices, some of which may be `registry.PREDICTED`."""
    if not isinstance(targets, jax.core.Tracer):
        indices = np.asarray(targets)
        as_indices(np.where(indices == registry.PREDICTED, 0, indices).tolist(), shape)


def head_layers(spec: models.ModelSpec, size: int) -> list[str]:
    """Return the layers with a spatial extent that the head of a network reads.

    Args:
      spec: the network.
      size: side of the images in pixels.

    Example:
      >>> head_layers(models.get_spec("vgg16", pooled=["block[45]_pool"]), 224)
      ['block4_pool', 'block5_pool']
    """
    shapes = endpoint_shapes(spec, size)
    pooled = classifier.pooled_endpoints(spec.pooled, list(shapes))
    return [layer for layer in layers.spatial_layers(shapes) if layer in pooled]


def _endpoints_below_head(spec: models.ModelSpec, size: int) -> EndpointShapes:
    """Return the shapes of the endpoints, up to the last endpoint of the head."""
    shapes = endpoint_shapes(spec, size)
    pooled = classifier.pooled_endpoints(spec.pooled, list(shapes))
    count = max(number for number, name in enumerate(shapes, 1) if name in pooled)
    return dict(itertools.islice(shapes.items(), count))


def map_layer(spec: models.ModelSpec, size: int) -> str:
    """Return the layer for class activation maps of images of a size.

    The layer is the first of these that exists:

    - "head", all layers that the head reads, if several have a spatial extent.
    - `spec.cam_layer`, if its map has more than one position.
    - The deepest block with a spatial extent below the head, for smaller images.
      Layers within a block, such as `mixed7_branch1x1` in `mixed7`, do not count.

    Args:
      spec: the network.
      size: side of the images in pixels.

    Raises:
      ValueError: no endpoint has a spatial extent, or none is `spec.cam_layer`.

    Example:
      >>> map_layer(models.get_spec("inception_v3"), 299)
      'mixed10'
      >>> map_layer(models.get_spec("inception_v3"), 80)
      'mixed7'
      >>> map_layer(models.get_spec("inception_v3", pooled=["mixed[78]"]), 299)
      'head'
    """
    if len(head_layers(spec, size)) > 1:
        return layers.HEAD
    shapes, cam_layer = _endpoints_below_head(spec, size), spec.cam_layer
    if cam_layer not in (known := endpoint_shapes(spec, size)):
        hint = hints.did_you_mean(cam_layer, known)
        raise ValueError(
            f"cam_layer of {spec.name} is {cam_layer!r}; expected an endpoint{hint}"
        )
    spatial = layers.spatial_layers(shapes)
    within = tuple(f"{block}_" for block in shapes)
    blocks = [layer for layer in spatial if not layer.startswith(within)]
    if not blocks:
        raise ValueError(f"no layer of {spec.name} has a map of {size} x {size} pixels")
    return cam_layer if cam_layer in spatial else blocks[-1]


def _choose_layers(
    spec: models.ModelSpec, methods: Sequence[str], layer: Layer | None, size: int
) -> Layer:
    """Return the layer or layers of the methods, after checks.

    Raises:
      ValueError: see `make_explainer`.
    """
    layered = [name for name in methods if registry.METHODS[name].layered]
    if not layered:
        return ()
    layer = layer or map_layer(spec, size)
    if layer == layers.HEAD:
        names = head_layers(spec, size)
    else:
        names = layers.check_layers(endpoint_shapes(spec, size), layer)
        if not all(registry.METHODS[name].single_layer for name in layered):
            _check_read(spec, size, tuple(names))
    for name in layered:
        if registry.METHODS[name].single_layer:
            layers.check_single(name, names)
    return names[0] if len(names) == 1 else names


@functools.cache
def _check_read(spec: models.ModelSpec, size: int, names: tuple[str, ...]) -> None:
    """Check that the logits depend on each layer, see `layers.check_read`."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def check(variables, images):
        layers.check_read(
            functools.partial(models.apply, spec, variables), images, names
        )

    jax.eval_shape(check, models.shapes(spec), image)


def in_groups(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the methods in groups that are compiled together, in their order.

    Example:
      >>> in_groups(["saliency", "grad_cam"])
      [('saliency', 'grad_cam')]
    """
    starts = range(0, len(methods), TOGETHER)
    return [tuple(methods[start : start + TOGETHER]) for start in starts]


def make_explainer(
    spec: models.ModelSpec,
    methods: Sequence[str],
    layer: Layer | None = None,
    preprocess: Preprocess | None = None,
    size: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    checked: bool = True,
) -> ExplainFunction:
    """Return a function that computes the maps of several methods.

    JAX compiles the methods in groups, see `in_groups`.

    Args:
      spec: the network.
      methods: names of methods, keys of `registry.METHODS`.
      layer: layer of the class activation maps: the name of an endpoint, several names,
        or "head". The default is `map_layer`.
      preprocess: applied to the images before the network, as in `models.bind`.
      size: side in pixels of the smallest images. The default is `spec.input_size`.
      options: options of methods by name, `{"integrated_gradients": {"steps": 8}}`.
        Options of methods that are not in `methods` have no effect.
      checked: whether to check that the images are finite and the targets are classes.
        The check waits until they are computed.

    Returns:
      `explain(variables, images, targets, keys) -> (logits, targets, maps)`. See
      `ExplainFunction`.

    Raises:
      ValueError: a method or an option is unknown, a method is repeated, or an option
        is out of its range. A layer has no spatial extent, the score does not depend on
        it, or a method takes one layer only.

    Example:
      >>> explain = make_explainer(spec, ["grad_cam", "smooth_grad"])
      >>> logits, targets, maps = explain(variables, images, labels, keys)
      >>> maps["grad_cam"].shape == images.shape[:3]
      True
    """
    registry.check_methods(methods)
    registry.check_all_options(methods, options or {})
    size = size or spec.input_size
    chosen = _choose_layers(spec, methods, layer, size)

    @functools.partial(jax.jit, static_argnames="methods")
    def compute(variables, images, targets, keys, methods):
        network = models.bind(spec, variables, preprocess)
        logits, _ = network(images)
        targets = jnp.asarray(targets, "int32")  # In 8 bits, -1 would be 255.
        targets = jnp.where(targets == registry.PREDICTED, logits.argmax(-1), targets)
        found = {name: registry.find(name) for name in methods}
        maps = _run(network, images, targets, keys, found, chosen, options or {})
        return logits, targets, maps

    def explain(variables, images, targets, keys):
        if checked:
            check_images(images)
            _check_targets(targets, (len(images), spec.num_classes))
        maps = {}
        for group in in_groups(methods):
            logits, targets, of_group = compute(
                variables, images, targets, keys, methods=group
            )
            maps |= of_group
        return logits, targets, maps

    return explain


def _run(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    methods: Mapping[str, registry.Method],
    layer: Layer,
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, Float[Array, "n h w"]]:
    """Return the maps of methods by their names."""
    maps = {}
    for name, method in methods.items():
        arguments = dict(options.get(name, {}))
        arguments |= {"layer": layer} if method.layered else {}
        arguments |= {"keys": keys} if method.random else {}
        maps[name] = method.function(network, images, targets, **arguments)
    return maps


def explain(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    methods: Sequence[str],
    targets: Targets = None,
    *,
    layer: Layer = layers.HEAD,
    keys: Key[Array, "n"] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Float[Array, "n h w"]]:
    """Compute the maps of several methods for any network.

    JAX compiles the methods in groups, see `in_groups`. It keeps the compiled functions
    for the next call with the same network, methods and options. An adapted network and
    class indices are arguments of a compiled function. Any other network function is
    compiled into it, with its variables.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      methods: names of methods, keys of `METHODS`, "attention_rollout" or
        "attention_relevance".
      layer: layer of all class activation maps: the name of an endpoint, several names,
        or "head".
      keys: one random key per image, for random methods. The default is
        `jax.random.split(jax.random.key(0), n)`.
      options: options of methods by name. Attention methods need their `layers`:
        `{"attention_rollout": {"layers": ["block_0/attention"]}}`.

    Returns:
      {method: maps}.

    Raises:
      ValueError: a method or an option is unknown, a method is repeated, a target is
        not a class, or a method raises it.

    Example:
      >>> maps = explain(network, images, ["saliency", "grad_cam"], labels)
      >>> maps["grad_cam"].shape == images.shape[:3]
      True
    """
    registry.check_methods(methods, attention=True)
    methods, options = tuple(methods), options or {}
    registry.check_all_options(methods, options)
    check_images(images)
    network = as_pytree(network)
    targets = to_arrays(targets, jax.eval_shape(_logits, network, images).shape)
    if keys is None:
        keys = jax.random.split(jax.random.key(0), len(images))
    maps = {}
    for group in in_groups(methods):
        arrays, constants = _split(group, options)
        maps |= _explain(
            network,
            images,
            as_pytree(targets),
            keys,
            arrays,
            # The methods themselves, because a name can get another method.
            methods=tuple((name, registry.find(name)) for name in group),
            layer=_hashable(layer),
            constants=constants,
        )
    return {name: maps[name] for name in methods}  # `jit` sorts the keys


@jax.jit
def _logits(network, images):
    return network(images)[0]


@functools.partial(jax.jit, static_argnames=("methods", "layer", "constants"))
def _explain(network, images, targets, keys, arrays, *, methods, layer, constants):
    options = {
        name: dict(of_method) | arrays[name]
        for (name, _), of_method in zip(methods, constants, strict=True)
    }
    # All methods share these targets, and the forward pass that gives them.
    targets = resolve(network, images, targets)
    return _run(network, images, targets, keys, dict(methods), layer, options)


def _split(methods: Sequence[str], options: Mapping[str, Mapping[str, Any]]):
    """Return the options that are arrays, and the others as hashable tuples."""
    arrays: dict[str, dict[str, Any]] = {}
    constants = []
    for name in methods:
        of_method = options.get(name, {})
        arrays[name] = {
            key: value
            for key, value in of_method.items()
            if isinstance(value, jax.Array | np.ndarray)
        }
        others = {key: of_method[key] for key in of_method.keys() - arrays[name]}
        constants.append(tuple((k, _hashable(others[k])) for k in sorted(others)))
    return arrays, tuple(constants)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
