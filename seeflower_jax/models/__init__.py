"""The registry of networks and what their weights need.

    spec = get_spec("inception_v3", num_classes=102)
    logits, endpoints = apply(spec, variables, images)   # images RGB in [0, 255]

`apply` is pure: a gradient with respect to `images` is with respect to the picture
itself, because preprocessing is part of the function.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from seeflower_jax import hints
from seeflower_jax.models import baseline, inception, small, vgg
from seeflower_jax.models.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything besides the variables that decides what a network computes.

    Attributes:
      name: key of `MODELS` and `BACKBONES`.
      num_classes: number of logits.
      input_size: side in pixels that the network is trained at.
      preprocess: key of `PREPROCESS`, from [0, 255] to what the weights expect.
      epsilon: of the batch normalisations.
      batch_norm_scale: whether the batch normalisations have a scale.
      count_include_pad: whether average pooling counts padding.
      cam_layer: the endpoint that class activation maps are taken from by default.
      head: regular expression that matches the new layers' parameters.
      pooling: key of `classifier.POOLING`, from endpoints to the head.
      pooled: the endpoints that the head sees; the last one alone if empty.
      hidden: widths of the head's layers below the last.
      dropout: rate while training, in the head and after the baseline's poolings.
      width: factor on the number of channels; 1 is the published network.
      dtype: of the computation, 'float32' or 'bfloat16'.
    """

    name: str
    num_classes: int = 1000
    input_size: int = 299
    preprocess: str = "tf"
    epsilon: float = 1e-3
    batch_norm_scale: bool = False
    count_include_pad: bool = False
    cam_layer: str = "mixed10"
    head: str = "head/.*"
    pooling: str = "average"
    pooled: tuple[str, ...] = ()
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    width: float = 1.0
    dtype: str = "float32"

    def __post_init__(self):
        # JSON and config files have lists.
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "pooled", tuple(self.pooled))

    def to_dict(self) -> dict:
        """A JSON-serialisable form; `ModelSpec(**spec.to_dict())` restores it."""
        return dataclasses.asdict(self)


_VGG = ModelSpec("vgg16", input_size=224, preprocess="caffe", cam_layer="block5_conv3")
MODELS = {
    "baseline": ModelSpec(
        "baseline",
        input_size=32,
        preprocess="unit",
        cam_layer="conv2",
        pooling="flatten",
        hidden=(1024,),
        dropout=0.25,
    ),
    "inception_v3": ModelSpec("inception_v3"),
    "small": ModelSpec(
        "small", input_size=64, batch_norm_scale=True, cam_layer="block5"
    ),
    "vgg16": _VGG,
    "vgg19": dataclasses.replace(_VGG, name="vgg19", cam_layer="block5_conv4"),
}


def _baseline(spec, **common):
    return baseline.Baseline(dropout=spec.dropout, **common)


def _inception_v3(spec, **common):
    return inception.InceptionV3(
        epsilon=spec.epsilon,
        use_scale=spec.batch_norm_scale,
        count_include_pad=spec.count_include_pad,
        **common,
    )


def _small(spec, **common):
    return small.Small(epsilon=spec.epsilon, use_scale=spec.batch_norm_scale, **common)


# What makes the layers below the head, by the names of `MODELS`:
# (spec, width=, act=, dtype=) -> module of (images, taps) -> {endpoint: [N, H, W, C]}.
BACKBONES = {
    "baseline": _baseline,
    "inception_v3": _inception_v3,
    "small": _small,
    "vgg16": lambda spec, **common: vgg.VGG(vgg.VGG16, **common),
    "vgg19": lambda spec, **common: vgg.VGG(vgg.VGG19, **common),
}

# Pixel values [0, 255] RGB -> the input of the network, by what the weights expect.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESS = {
    "unit": lambda images: images / 255,
    "tf": lambda images: images / 127.5 - 1.0,
    "caffe": lambda images: images[..., ::-1] - jnp.array([103.939, 116.779, 123.68]),
    "torch": lambda images: (
        (images / 255 - jnp.array(_IMAGENET_MEAN)) / jnp.array(_IMAGENET_STD)
    ),
}


def get_spec(name: str, **changes) -> ModelSpec:
    """The registered spec with some attributes changed.

    Raises:
      ValueError: for an unknown network; the message lists the known ones.
    """
    if name not in MODELS:
        hint = hints.did_you_mean(name, MODELS)
        raise ValueError(f"unknown model {name!r}: known are {sorted(MODELS)}{hint}")
    return dataclasses.replace(MODELS[name], **changes)


def build(spec: ModelSpec, act: Callable = nn.relu) -> nn.Module:
    """The Linen module of a spec; it takes preprocessed images."""
    backbone = BACKBONES[spec.name](
        spec, width=spec.width, act=act, dtype=jnp.dtype(spec.dtype)
    )
    return Classifier(
        backbone,
        spec.num_classes,
        spec.dropout,
        spec.hidden,
        spec.pooling,
        spec.pooled,
    )


def init(spec: ModelSpec, key) -> dict:
    """Random variables {'params', 'batch_stats'}, float32.

    `batch_stats` is empty for a network without batch normalisation.
    """
    images = jnp.zeros((1, spec.input_size, spec.input_size, 3))
    return {"batch_stats": {}, **build(spec).init(key, images)}


def shapes(spec: ModelSpec) -> dict:
    """The shapes and types of what `init` gives, without computing it."""
    return jax.eval_shape(lambda: init(spec, jax.random.key(0)))


def init_head(spec: ModelSpec, key) -> dict:
    """The parameters of the head as in `init`, without running the network."""
    images = jnp.zeros((1, spec.input_size, spec.input_size, 3))
    inputs = jax.eval_shape(lambda v: features(spec, v, images), shapes(spec))
    zeros = jnp.zeros(inputs.shape)
    return build(spec).init(key, zeros, method="classify")["params"]["head"]


def apply(
    spec: ModelSpec, variables, images, taps=None, act: Callable = nn.relu, **options
):
    """Runs a network on pictures.

    Args:
      spec: which network.
      variables: {'params', 'batch_stats'}.
      images: [N, H, W, 3], RGB in [0, 255], uint8 or floating.
      taps: optional {endpoint name: array}, added to those endpoints; the gradient
        with respect to a zero tap is the gradient at that layer.
      act: the activation function; one with another gradient makes guided maps.
      **options: passed to `nn.Module.apply`: `rngs={'dropout': key}` makes dropout
        active, `mutable=['batch_stats']` trains batch statistics.

    Returns:
      (logits float32 [N, num_classes], endpoints {name: [N, h, w, C]}); with `mutable`
      the pair of that and the updated collections.
    """
    images = PREPROCESS[spec.preprocess](images.astype(jnp.float32))
    return build(spec, act).apply(variables, images, taps, **options)


def bind(spec: ModelSpec, variables, preprocess: Callable | None = None) -> Callable:
    """A network of pictures alone: network(images, taps=None, **options) as `apply`.

    Args:
      spec, variables: of the network.
      preprocess: applied to pictures before it (whitening), and differentiated with it.
    """

    def network(images, taps=None, **options):
        if preprocess:
            images = preprocess(images.astype(jnp.float32))
        return apply(spec, variables, images, taps, **options)

    return network


def features(spec: ModelSpec, variables, images):
    """What the head sees of pictures [N, H, W, 3] in [0, 255]: [N, C] float32."""
    model = build(spec)
    images = PREPROCESS[spec.preprocess](images.astype(jnp.float32))
    return model.apply(variables, images, method="features")[0]


def classify(spec: ModelSpec, variables, features, **options):
    """The head alone: features [N, C] -> logits [N, num_classes]."""
    return build(spec).apply(variables, features, method="classify", **options)
