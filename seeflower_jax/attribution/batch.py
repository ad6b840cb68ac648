"""Any attribution methods over any number of pictures, by name.

    explain = make_explainer(spec, ["saliency", "grad_cam"], layer="mixed7")
    logits, targets, maps = explain(variables, images, targets, keys)
    maps["grad_cam"]    # float32 [N, H, W]

Methods that share work, like the forward pass, do it once: they are compiled together.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from seeflower_jax import hints, models
from seeflower_jax.attribution import (
    cam,
    eigen_cam,
    finer_cam,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    integrated_gradients,
    layer_cam,
    occlusion,
    saliency,
    score_cam,
    smooth_grad,
)

PREDICTED = -1


@dataclasses.dataclass(frozen=True)
class Method:
    """A method by name.

    Attributes:
      function: (network, images, targets, ...) -> maps.
      layered: whether it takes a `layer`.
      random: whether it takes `keys`.
      signed: whether maps have a sign.
    """

    function: Callable
    layered: bool = False
    random: bool = False
    signed: bool = False


METHODS = {
    "saliency": Method(saliency.saliency),
    "signed_saliency": Method(saliency.signed_saliency, signed=True),
    "guided_saliency": Method(saliency.guided_saliency),
    "paper_saliency": Method(saliency.paper_saliency),
    "smooth_grad": Method(smooth_grad.smooth_grad, random=True),
    "integrated_gradients": Method(
        integrated_gradients.integrated_gradients, signed=True
    ),
    "occlusion": Method(occlusion.occlusion, signed=True),
    "grad_cam": Method(grad_cam.grad_cam, layered=True),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus.grad_cam_plus_plus, layered=True),
    "layer_cam": Method(layer_cam.layer_cam, layered=True),
    "hires_cam": Method(hires_cam.hires_cam, layered=True, signed=True),
    "eigen_cam": Method(eigen_cam.eigen_cam, layered=True),
    "score_cam": Method(score_cam.score_cam, layered=True),
    "finer_cam": Method(finer_cam.finer_cam, layered=True),
    "guided_grad_cam": Method(guided_grad_cam.guided_grad_cam, layered=True),
}


def check_methods(names: Sequence[str]) -> None:
    """Refuses unknown methods.

    Raises:
      ValueError: names them and lists the known ones.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(
                f"unknown attribution method {name!r}: known are "
                f"{', '.join(METHODS)}{hints.did_you_mean(name, METHODS)}"
            )
    if not names:
        raise ValueError(f"no attribution method given; known are {', '.join(METHODS)}")


def options_of(name: str) -> dict[str, int | float]:
    """The numbers that a method takes besides, {'steps': 32}, with their defaults."""
    return {
        key: parameter.default
        for key, parameter in inspect.signature(
            METHODS[name].function
        ).parameters.items()
        if type(parameter.default) in (int, float)
    }


def parse_options(texts: Iterable[str]) -> dict[str, dict[str, int | float]]:
    """Options of methods as they are typed, 'integrated_gradients.steps=8', as dicts.

    Raises:
      ValueError: for an unknown method or option, and for what is no such number.
    """
    options = {}
    for text in texts:
        name, _, assignment = text.partition(".")
        key, _, value = assignment.partition("=")
        check_methods([name])
        known = options_of(name)
        if key not in known:
            raise ValueError(
                f"{name} has no option {key!r}, of {text!r}: it has "
                f"{', '.join(known) or 'none'}{hints.did_you_mean(key, known)}"
            )
        try:
            options.setdefault(name, {})[key] = type(known[key])(value)
        except ValueError:
            kind = "a whole number" if type(known[key]) is int else "a number"
            raise ValueError(f"{text!r}: expected {kind} after =") from None
    return options


def check_target(target: int, num_classes: int) -> None:
    """Refuses a class index that the network has no logit for.

    Raises:
      ValueError: tells the range.
    """
    if target != PREDICTED and not 0 <= target < num_classes:
        raise ValueError(
            f"target class {target} is out of range: the network has classes 0 to "
            f"{num_classes - 1}"
        )


def check_images(images: jax.Array) -> None:
    """Refuses images with values that are not finite; integers always are.

    Within `jit`, where values are not known, it does nothing.

    Raises:
      ValueError: names the first such image.
    """
    known = not isinstance(images, jax.core.Tracer)
    if known and jnp.issubdtype(images.dtype, jnp.floating):
        finite = jnp.isfinite(images).all((1, 2, 3))
        if not finite.all():
            raise ValueError(
                f"image {int(finite.argmin())} of the batch has values that are not "
                "finite (NaN or infinite); expected RGB from 0 to 255"
            )


@functools.cache
def _endpoints(spec: models.ModelSpec, size: int) -> dict:
    """The shapes of a network's endpoints on one picture."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    bound = functools.partial(models.apply, spec)
    return jax.eval_shape(bound, models.shapes(spec), image)[1]


def map_layer(spec: models.ModelSpec, size: int) -> str:
    """The layer for class activation maps of pictures of a size.

    It is the network's `cam_layer` or, where pictures are too small for that to have a
    map, the deepest endpoint that has one.

    Raises:
      ValueError: if none has.
    """
    layers = cam.spatial_layers(_endpoints(spec, size))
    if not layers:
        raise ValueError(f"no layer of {spec.name} has a map of {size} x {size} pixels")
    return spec.cam_layer if spec.cam_layer in layers else layers[-1]


def make_explainer(
    spec: models.ModelSpec,
    methods: Sequence[str],
    layer: str | None = None,
    preprocess: Callable | None = None,
    size: int | None = None,
    options: Mapping[str, Mapping] | None = None,
) -> Callable:
    """Builds a jitted explain(variables, images, targets, keys).

    Args:
      spec: the network.
      methods: keys of `METHODS`.
      layer: endpoint of the class activation maps; that of `map_layer` if None.
      preprocess: as of `models.bind`.
      size: side in pixels of the pictures, or of the smallest of them; the network's
        own if None.
      options: of methods by name, `{"integrated_gradients": {"steps": 8}}`; those of
        methods that are not asked for are left aside.

    Returns:
      explain, of variables, images [N, H, W, 3] in [0, 255], targets int [N]
      (`PREDICTED` for the predicted class) and N random keys; it gives logits
      [N, num_classes], targets int [N] and {method: maps float32 [N, H, W]}.

      It raises ValueError for images with values that are not finite.

    Raises:
      ValueError: for an unknown method, or a layer without a map.
    """
    check_methods(methods)
    if any(METHODS[name].layered for name in methods):
        size = size or spec.input_size
        layer = layer or map_layer(spec, size)
        cam.check_layer(_endpoints(spec, size), layer)

    @jax.jit
    def compute(variables, images, targets, keys):
        network = models.bind(spec, variables, preprocess)
        logits, _ = network(images)
        targets = jnp.where(targets == PREDICTED, logits.argmax(-1), targets)
        maps = {}
        for name in methods:
            method = METHODS[name]
            given = dict((options or {}).get(name, {}))
            given |= {"layer": layer} if method.layered else {}
            given |= {"keys": keys} if method.random else {}
            maps[name] = method.function(network, images, targets, **given)
        return logits, targets, maps

    def explain(variables, images, targets, keys):
        check_images(images)
        return compute(variables, images, targets, keys)

    return explain
