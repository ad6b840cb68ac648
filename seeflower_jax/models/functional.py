"""Networks as pure functions of a spec, variables and images.

    spec = get_spec("inception_v3", num_classes=102)
    variables = init(spec, jax.random.key(0))
    logits, endpoints = apply(spec, variables, images)   # images RGB in [0, 255]

Preprocessing is part of the function, so a gradient with respect to `images` is the
gradient with respect to pixel values.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from seeflower_jax.models import registry
from seeflower_jax.models.classifier import Classifier
from seeflower_jax.models.dtypes import as_float, at_least_float32, check_dtype
from seeflower_jax.models.layers import Taps
from seeflower_jax.models.preprocess import PREPROCESS
from seeflower_jax.models.spec import ModelSpec

# {'params': ..., 'batch_stats': ...}
Variables = Mapping[str, Any]
Images = Num[Array, "n h w 3"]


def build(spec: ModelSpec) -> Classifier:
    """Return the Linen module of a spec; the module takes preprocessed images.

    Raises:
      ValueError: if a name in the spec is not known, or the dtype needs the 64-bit
        mode of JAX.
    """
    registry.check(spec)
    model = registry.get_model(spec.name)
    backbone = model.backbone(spec, width=spec.width, dtype=check_dtype(spec.dtype))
    return Classifier(
        backbone,
        spec.num_classes,
        spec.dropout,
        spec.hidden,
        spec.pooling,
        spec.pooled,
        spec.standardize,
    )


@functools.partial(jax.jit, static_argnames="spec")
def init(spec: ModelSpec, key: PRNGKeyArray) -> dict[str, Any]:
    """Return random variables {'params', 'batch_stats'}, float32.

    `batch_stats` is empty for a network without batch normalisation.
    """
    images = jnp.zeros((1, spec.input_size, spec.input_size, 3))
    return {"batch_stats": {}, **build(spec).init(key, images)}


def shapes(spec: ModelSpec) -> dict[str, Any]:
    """Return the shapes and dtypes of the variables, without computing them."""
    return jax.eval_shape(lambda: init(spec, jax.random.key(0)))


@functools.partial(jax.jit, static_argnames="spec")
def init_head(spec: ModelSpec, key: PRNGKeyArray) -> dict[str, Any]:
    """Return the head's variables as in `init`, without running the network.

    Returns:
      {'params': {'head': ...}}, and 'batch_stats' if the head standardises features.
    """
    images = jnp.zeros((1, spec.input_size, spec.input_size, 3))
    inputs = jax.eval_shape(lambda v: features(spec, v, images), shapes(spec))
    zeros = jnp.zeros(inputs.shape)
    return dict(build(spec).init(key, zeros, method="apply_head"))


@functools.cache
def endpoint_shapes(spec: ModelSpec, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the endpoints for one image of `size` pixels.

    The endpoints are in the order of the computation.
    """
    names: list[str] = []

    def endpoints(variables, image):
        by_name = apply(spec, variables, image)[1]
        names.extend(by_name)  # because `jax.eval_shape` sorts the keys of a dict
        return by_name

    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    sizes = jax.eval_shape(endpoints, shapes(spec), image)
    return {name: sizes[name] for name in names}


def apply(
    spec: ModelSpec,
    variables: Variables,
    images: Images,
    taps: Taps | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Compute the logits and endpoints of images.

    Args:
      spec: the network.
      variables: {'params', 'batch_stats'}.
      images: RGB in [0, 255], uint8 or floating point.
      taps: {endpoint name: array}, added to these endpoints. The gradient with respect
        to a zero tap is the gradient at that endpoint.
      **options: options of `flax.linen.Module.apply`. `rngs={'dropout': key}`
        makes dropout active. `mutable=['batch_stats']` normalises by the statistics of
        the batch and updates the running statistics.

    Returns:
      (logits [n, num_classes], endpoints {name: [n, h, w, c]}). The logits are float32,
      or float64 for that dtype. With `mutable`, a pair of this result and the updated
      collections.

    Example:
      >>> spec = get_spec("small", num_classes=5)
      >>> variables = init(spec, jax.random.key(0))
      >>> logits, endpoints = apply(spec, variables, jnp.zeros((2, 64, 64, 3)))
      >>> logits.shape, endpoints["block5"].shape
      ((2, 5), (2, 8, 8, 128))
    """
    x = _preprocessed(spec, images)
    return build(spec).apply(variables, x, taps, **options)


def bind(
    spec: ModelSpec,
    variables: Variables,
    preprocess: Callable[[Float[Array, "n h w 3"]], Float[Array, "n h w 3"]]
    | None = None,
) -> Callable[..., tuple[Any, Any]]:
    """Return network(images, taps=None, **options), which calls `apply`.

    Args:
      spec: the network.
      variables: {'params', 'batch_stats'}.
      preprocess: function applied to images before the network (whitening). Gradients
        pass through it.
    """

    def network(
        images: Images, taps: Taps | None = None, **options: Any
    ) -> tuple[Any, Any]:
        if preprocess:
            images = preprocess(as_float(images))
        return apply(spec, variables, images, taps, **options)

    return network


def features(
    spec: ModelSpec, variables: Variables, images: Images
) -> Float[Array, "n features"]:
    """Compute the input of the head, float32, for RGB images in [0, 255]."""
    x = _preprocessed(spec, images)
    return build(spec).apply(variables, x, method="features")[0]


def _preprocessed(spec: ModelSpec, images: Images) -> Float[Array, "n h w 3"]:
    dtype = at_least_float32(spec.dtype)
    return PREPROCESS[spec.preprocess](images.astype(dtype))


def apply_head(
    spec: ModelSpec,
    variables: Variables,
    features: Float[Array, "n features"],
    **options: Any,
) -> Any:
    """Compute the logits, float32 [n, num_classes], of features.

    Args:
      spec: the network.
      variables: {'params', 'batch_stats'}.
      features: features from `features`.
      **options: options of `flax.linen.Module.apply`. With `mutable`, the result is a
        pair of the logits and the updated collections.
    """
    return build(spec).apply(variables, features, method="apply_head", **options)
