"""Register networks and look them up by name.

register(ModelSpec("mine", input_size=64, preprocess="tf", cam_layer="block3"),
         lambda spec, **options: Mine(epsilon=spec.epsilon, **options))
spec = get_spec("mine", num_classes=102)
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn

from seeflower_jax import hints
from seeflower_jax.models import baseline, inception, small, vgg
from seeflower_jax.models.classifier import POOLING
from seeflower_jax.models.preprocess import PREPROCESS
from seeflower_jax.models.spec import ModelSpec

# backbone(spec, width=..., dtype=...) -> module of (images, taps), which
# returns {endpoint: [n, h, w, c]}.
Backbone = Callable[..., nn.Module]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network that configs and scripts know by name.

    Attributes:
      spec: spec of its published weights.
      backbone: function from a spec to the layers below the head.
    """

    spec: ModelSpec
    backbone: Backbone


MODELS: dict[str, Model] = {}


def register(spec: ModelSpec, backbone: Backbone) -> None:
    """Make a network known by the name in its spec.

    Args:
      spec: the default spec of the network.
      backbone: backbone(spec, width=, dtype=) returns a Linen module. The module
        takes preprocessed images and taps, and returns its endpoints by name.

    Raises:
      ValueError: if the name is taken, or if the spec is not valid.
    """
    if spec.name in MODELS:
        raise ValueError(f"model {spec.name!r} is registered already; use another name")
    check(spec)
    MODELS[spec.name] = Model(spec, backbone)


def get_model(name: str) -> Model:
    """Return a registered network.

    Raises:
      ValueError: if no network has this name; the message lists all names.
    """
    if name not in MODELS:
        hint = hints.did_you_mean(name, MODELS)
        raise ValueError(
            f"unknown model {name!r}: known are {sorted(MODELS)}{hint}; use --plugins "
            "to import a module that registers others"
        )
    return MODELS[name]


def get_spec(name: str, **changes: Any) -> ModelSpec:
    """Return the spec of a registered network, with some attributes changed.

    Raises:
      ValueError: if no network has this name, or if an attribute is not valid.
    """
    spec = dataclasses.replace(get_model(name).spec, **changes)
    check(spec)
    return spec


def check(spec: ModelSpec) -> None:
    """Check that the names in a spec are known.

    Raises:
      ValueError: if the pooling or the preprocessing is not known.
    """
    _check_known("pooling", spec.pooling, POOLING)
    _check_known("preprocess", spec.preprocess, PREPROCESS)


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        hint = hints.did_you_mean(name, known)
        raise ValueError(f"unknown {what} {name!r}: known are {sorted(known)}{hint}")


def _baseline(spec: ModelSpec, **options: Any) -> nn.Module:
    return baseline.Baseline(dropout=spec.dropout, **options)


def _inception_v3(spec: ModelSpec, **options: Any) -> nn.Module:
    return inception.InceptionV3(
        epsilon=spec.epsilon,
        use_scale=spec.batch_norm_scale,
        count_include_pad=spec.count_include_pad,
        **options,
    )


def _small(spec: ModelSpec, **options: Any) -> nn.Module:
    return small.Small(epsilon=spec.epsilon, use_scale=spec.batch_norm_scale, **options)


def _vgg16(spec: ModelSpec, **options: Any) -> nn.Module:
    return vgg.VGG(vgg.VGG16, **options)


def _vgg19(spec: ModelSpec, **options: Any) -> nn.Module:
    return vgg.VGG(vgg.VGG19, **options)


register(
    ModelSpec(
        "baseline",
        input_size=32,
        preprocess="unit",
        cam_layer="conv2",
        pooling="flatten",
        hidden=(1024,),
        dropout=0.25,
    ),
    _baseline,
)
register(
    ModelSpec("inception_v3", input_size=299, preprocess="tf", cam_layer="mixed10"),
    _inception_v3,
)
register(
    ModelSpec(
        "small",
        input_size=64,
        preprocess="tf",
        cam_layer="block5",
        batch_norm_scale=True,
    ),
    _small,
)
register(
    ModelSpec("vgg16", input_size=224, preprocess="caffe", cam_layer="block5_conv3"),
    _vgg16,
)
register(
    ModelSpec("vgg19", input_size=224, preprocess="caffe", cam_layer="block5_conv4"),
    _vgg19,
)
