"""Preprocess pixel values as the weights of a network expect.

x = PREPROCESS["tf"](images)   # images RGB in [0, 255]
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "n h w 3"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
# The means that torchvision gives for its VGG16 without a classifier.
_CAFFE_RGB_MEAN = (0.48235, 0.45882, 0.40784)


def _unit(images: Images) -> Images:
    return images / 255


def _tf(images: Images) -> Images:
    return images / 127.5 - 1.0


def _caffe(images: Images) -> Images:
    return images[..., ::-1] - jnp.array(_IMAGENET_MEAN_BGR)


def _caffe_rgb(images: Images) -> Images:
    return images - 255 * jnp.array(_CAFFE_RGB_MEAN)


def _torch(images: Images) -> Images:
    return (images / 255 - jnp.array(_IMAGENET_MEAN)) / jnp.array(_IMAGENET_STD)


# The functions return, in this order: [0, 1], [-1, 1], centred BGR, centred RGB,
# standardised RGB.
PREPROCESS: dict[str, Callable[[Images], Images]] = {
    "unit": _unit,
    "tf": _tf,
    "caffe": _caffe,
    "caffe_rgb": _caffe_rgb,
    "torch": _torch,
}
