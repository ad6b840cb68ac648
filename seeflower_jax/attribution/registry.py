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
    ablation_cam,
    attention_relevance,
    attention_rollout,
    deconvnet_saliency,
    deep_lift,
    eigen_cam,
    feature_ablation,
    finer_cam,
    full_grad,
    grad_cam,
    grad_cam_plus_plus,
    gradient_shap,
    guided_grad_cam,
    hires_cam,
    input_x_gradient,
    integrated_gradients,
    kernel_shap,
    layer_cam,
    layer_conductance,
    lrp,
    occlusion,
    rise,
    saliency,
    score_cam,
    smooth_grad,
    smooth_grad_squared,
    var_grad,
    xgrad_cam,
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
      single_layer: whether the function takes one layer only, and does not use the
        gradient there.
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
    "input_x_gradient": Method(input_x_gradient.input_x_gradient, signed=True),
    "smooth_grad": Method(smooth_grad.smooth_grad, random=True),
    "smooth_grad_squared": Method(smooth_grad_squared.smooth_grad_squared, random=True),
    "var_grad": Method(var_grad.var_grad, random=True),
    "integrated_gradients": Method(
        integrated_gradients.integrated_gradients, signed=True
    ),
    "gradient_shap": Method(gradient_shap.gradient_shap, random=True, signed=True),
    "full_grad": Method(full_grad.full_grad),
    "deep_lift": Method(deep_lift.deep_lift, signed=True),
    "lrp": Method(lrp.lrp, signed=True),
    "occlusion": Method(occlusion.occlusion, signed=True),
    "feature_ablation": Method(feature_ablation.feature_ablation, signed=True),
    "kernel_shap": Method(kernel_shap.kernel_shap, random=True, signed=True),
    "rise": Method(rise.rise, random=True, signed=True),
    "grad_cam": Method(grad_cam.grad_cam, layered=True),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus.grad_cam_plus_plus, layered=True),
    "xgrad_cam": Method(xgrad_cam.xgrad_cam, layered=True),
    "layer_cam": Method(layer_cam.layer_cam, layered=True),
    "hires_cam": Method(hires_cam.hires_cam, layered=True, signed=True),
    "layer_conductance": Method(
        layer_conductance.layer_conductance, layered=True, signed=True
    ),
    "eigen_cam": Method(eigen_cam.eigen_cam, layered=True, single_layer=True),
    "score_cam": Method(score_cam.score_cam, layered=True, single_layer=True),
    "ablation_cam": Method(ablation_cam.ablation_cam, layered=True, single_layer=True),
    "finer_cam": Method(finer_cam.finer_cam, layered=True),
    "guided_grad_cam": Method(guided_grad_cam.guided_grad_cam, layered=True),
}

# Methods of transformers. They take `layers`, the names of attention weights.
ATTENTION_METHODS: dict[str, Method] = {
    "attention_rollout": Method(attention_rollout.attention_rollout),
    "attention_relevance": Method(attention_relevance.attention_relevance),
}


def register(name: str, method: Method) -> None:
    """Register a method under a name.

    Raises:
      ValueError: the name is taken.
    """
    if name in METHODS:
        raise ValueError(f"method {name!r} is registered already; use another name")
    METHODS[name] = method


def find(name: str) -> Method:
    """Return a method by its name.

    Example:
      >>> find("grad_cam").layered
      True
    """
    return METHODS[name] if name in METHODS else ATTENTION_METHODS[name]


def check_methods(names: Sequence[str], attention: bool = False) -> None:
    """Check that methods are known and not repeated, and that there is at least one.

    Args:
      names: names of the methods.
      attention: whether methods of `ATTENTION_METHODS` are allowed, too.

    Raises:
      ValueError: a method is unknown or repeated, or `names` is empty or no list. The
        message lists the known methods.
    """
    if isinstance(names, str):
        raise ValueError(f"methods are {names!r}; expected a list, [{names!r}]")
    known = [*METHODS, *(ATTENTION_METHODS if attention else ())]
    for name in names:
        if name not in known:
            raise ValueError(
                f"unknown attribution method {name!r}: known are "
                f"{', '.join(known)}{hints.did_you_mean(name, known)}"
            )
    if not names:
        raise ValueError(f"no attribution method given; known are {', '.join(known)}")
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
      {'window': 48, 'stride': 24, 'baseline': 127.5, 'batch_size': 1}
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
    parameters = inspect.signature(find(name).function).parameters
    known = [p for p in parameters if p not in _ARGUMENTS]
    for key in options:
        if key not in known:
            raise ValueError(
                f"{name} has no option {key!r}: it has "
                f"{', '.join(known) or 'none'}{hints.did_you_mean(key, known)}"
            )
    if name in ATTENTION_METHODS and "layers" not in options:
        raise ValueError(
            f"{name} needs the names of the attention weights; pass "
            f'options={{"{name}": {{"layers": [...]}}}}'
        )
    check_ranges(name, **options)


def check_all_options(
    methods: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Check the options of methods by `check_options`.

    Args:
      methods: names of the methods.
      options: options of methods by name. Those of other methods are not checked.

    Raises:
      ValueError: see `check_options`, or a name in `options` is not a method.
    """
    if options:
        check_methods(list(options), attention=True)
    for name in methods:
        check_options(name, options.get(name, {}))


def parse_layer(text: str | None) -> Layer | None:
    """Parse layers as users type them; None stands for the default.

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
                f"{name} has no option {key!r}, in {text!r}: it has "
                f"{', '.join(defaults) or 'none'}{hints.did_you_mean(key, defaults)}"
            )
        try:
            options.setdefault(name, {})[key] = type(defaults[key])(value)
        except ValueError:
            kind = "a whole number" if type(defaults[key]) is int else "a number"
            raise ValueError(f"{text!r}: expected {kind} after =") from None
        check_ranges(name, **options[name])
    return options
