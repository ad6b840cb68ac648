"""The attribution methods by name, and their options as text.

Example:
    METHODS["grad_cam"].function(network, images, targets, layer="mixed10")
    METHODS["my_method"] = Method(my_method, layered=True)     # adds a method
    parse_options(["integrated_gradients.steps=8"])
"""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seeflower_jax import hints
from seeflower_jax.attribution.methods import (
    deconvnet_saliency,
    deep_lift,
    eigen_cam,
    finer_cam,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    integrated_gradients,
    layer_cam,
    lrp,
    occlusion,
    saliency,
    score_cam,
    smooth_grad,
)
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.types import Layer, MethodFunction

PREDICTED = -1  # stands for the predicted class among class indices

# The options of a method that are numbers or words, {"steps": 32}.
Options = dict[str, int | float | str]


@dataclasses.dataclass(frozen=True)
class Method:
    """An attribution method and what its function takes and returns.

    Attributes:
      function: (network, images, targets, ...) -> maps.
      layered: whether the function takes a `layer`, see `types.Layer`.
      single_layer: whether the function takes one layer only, and not the gradient of
        the score there. The score may then be independent of the layer.
      random: whether the function takes `keys`, one random key per image.
      signed: whether maps have negative values, for evidence against the target.
    """

    function: MethodFunction
    layered: bool = False
    single_layer: bool = False
    random: bool = False
    signed: bool = False


METHODS: dict[str, Method] = {
    "saliency": Method(saliency.saliency),
    "signed_saliency": Method(saliency.signed_saliency, signed=True),
    "guided_saliency": Method(saliency.guided_saliency),
    "deconvnet_saliency": Method(deconvnet_saliency.deconvnet_saliency),
    "paper_saliency": Method(saliency.paper_saliency),
    "smooth_grad": Method(smooth_grad.smooth_grad, random=True),
    "integrated_gradients": Method(
        integrated_gradients.integrated_gradients, signed=True
    ),
    "deep_lift": Method(deep_lift.deep_lift, signed=True),
    "lrp": Method(lrp.lrp, signed=True),
    "occlusion": Method(occlusion.occlusion, signed=True),
    "grad_cam": Method(grad_cam.grad_cam, layered=True),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus.grad_cam_plus_plus, layered=True),
    "layer_cam": Method(layer_cam.layer_cam, layered=True),
    "hires_cam": Method(hires_cam.hires_cam, layered=True, signed=True),
    "eigen_cam": Method(eigen_cam.eigen_cam, layered=True, single_layer=True),
    "score_cam": Method(score_cam.score_cam, layered=True, single_layer=True),
    "finer_cam": Method(finer_cam.finer_cam, layered=True),
    "guided_grad_cam": Method(guided_grad_cam.guided_grad_cam, layered=True),
}


def register(name: str, method: Method) -> None:
    """Make a method known by a name.

    Raises:
      ValueError: the name is taken.
    """
    if name in METHODS:
        raise ValueError(f"method {name!r} is registered already; use another name")
    METHODS[name] = method


def check_methods(names: Sequence[str]) -> None:
    """Check that methods are known, that there is at least one, and none is repeated.

    Raises:
      ValueError: a method is unknown or repeated, or `names` is empty. The message
        lists the known methods.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(
                f"unknown attribution method {name!r}: known are "
                f"{', '.join(METHODS)}{hints.did_you_mean(name, METHODS)}"
            )
    if not names:
        raise ValueError(f"no attribution method given; known are {', '.join(METHODS)}")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ValueError(
                f"attribution method {name!r} is given more than once; give it once"
            )


# Arguments of methods that are not options.
_ARGUMENTS = ("network", "images", "targets", "layer", "keys")


def options_of(name: str) -> Options:
    """Return the options of a method that are numbers or words, with their defaults.

    Example:
      >>> options_of("occlusion")
      {'window': 48, 'stride': 24, 'baseline': 127.5}
    """
    parameters = inspect.signature(METHODS[name].function).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if type(parameter.default) in (int, float, str)
    }


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check that a method has the options, and that they are within their ranges.

    Raises:
      ValueError: the method has no such option, or a value is out of its range. The
        message lists the options or the range.

    Example:
      >>> check_options("occlusion", {"window": 32})
    """
    parameters = inspect.signature(METHODS[name].function).parameters
    known = [p for p in parameters if p not in _ARGUMENTS]
    for key in options:
        if key not in known:
            raise ValueError(
                f"{name} has no option {key!r}: it has "
                f"{', '.join(known) or 'none'}{hints.did_you_mean(key, known)}"
            )
    check_ranges(name, **options)


def parse_layer(text: str | None) -> Layer | None:
    """Parse layers as users type them; no text stands for the default, None.

    Example:
      >>> parse_layer("mixed7"), parse_layer("mixed7,mixed10")
      ('mixed7', ['mixed7', 'mixed10'])
    """
    names = (text or "").split(",")
    return (names if len(names) > 1 else names[0]) or None


def parse_options(texts: Iterable[str]) -> dict[str, Options]:
    """Parse options as users type them, such as "integrated_gradients.steps=8".

    Returns:
      {method: {option: value}}, with the type of the option's default.

    Raises:
      ValueError: a method or an option is unknown, or a value is not of the option's
        type and range.

    Example:
      >>> parse_options(["occlusion.window=32", "occlusion.baseline=9"])
      {'occlusion': {'window': 32, 'baseline': 9.0}}
    """
    options: dict[str, Options] = {}
    for text in texts:
        name, _, assignment = text.partition(".")
        key, _, value = assignment.partition("=")
        check_methods([name])
        defaults = options_of(name)
        if key not in defaults:
            raise ValueError(
                f"{name} has no option {key!r}, of {text!r}: it has "
                f"{', '.join(defaults) or 'none'}{hints.did_you_mean(key, defaults)}"
            )
        try:
            options.setdefault(name, {})[key] = type(defaults[key])(value)
        except ValueError:
            kind = "a whole number" if type(defaults[key]) is int else "a number"
            raise ValueError(f"{text!r}: expected {kind} after =") from None
        check_ranges(name, **options[name])
    return options
