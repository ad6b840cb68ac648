"""VGG in Equinox and in Flax NNX, with the variables of this package.

    network = attr.from_equinox(equinox_vgg(spec, variables), preprocess=...)

The networks take preprocessed images and have a linear head.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from seeflower_jax import models
from seeflower_jax.models import vgg
from seeflower_jax.pretrained.types import Variables

BLOCKS = {"vgg16": vgg.VGG16, "vgg19": vgg.VGG19}


def _arrays(
    spec: models.ModelSpec, variables: Variables
) -> list[tuple[Float[Array, "..."], Float[Array, "c"]]]:
    """Return the kernel and the bias of all convolutions, and of the head."""
    backbone = variables["params"]["backbone"]
    layers = [backbone[name] for name in vgg.conv_names(BLOCKS[spec.name])]
    layers.append(variables["params"]["head"]["logits"])
    return [(layer["kernel"], layer["bias"]) for layer in layers]


def equinox_vgg(spec: models.ModelSpec, variables: Variables) -> eqx.nn.Sequential:
    """Return VGG16 or VGG19 of one image, with the channels first."""
    *convolutions, head = _arrays(spec, variables)
    arrays, key = iter(convolutions), jax.random.key(0)
    layers: list[Callable[..., Any]] = []
    for count in BLOCKS[spec.name]:
        for _ in range(count):
            kernel, bias = next(arrays)
            inputs, outputs = kernel.shape[2:]
            convolution = eqx.nn.Conv2d(inputs, outputs, 3, padding=1, key=key)
            weight = jnp.transpose(kernel, (3, 2, 0, 1))
            layers.append(_with_weights(convolution, weight, bias[:, None, None]))
            layers.append(eqx.nn.Lambda(jax.nn.relu))
        layers.append(eqx.nn.MaxPool2d(2, 2))
    layers.append(eqx.nn.Lambda(lambda x: x.mean((1, 2))))
    kernel, bias = head
    inputs, outputs = kernel.shape
    linear = eqx.nn.Linear(inputs, outputs, key=key)
    layers.append(_with_weights(linear, kernel.T, bias))
    return eqx.nn.Sequential(layers)


def equinox_cam_layer(spec: models.ModelSpec) -> str:
    """Return the name of the last ReLU of `equinox_vgg`."""
    counts = BLOCKS[spec.name]
    return f"layers/{2 * sum(counts) + len(counts) - 2}"


def _with_weights(layer, weight: Array, bias: Array):
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, bias))


class NnxVgg(nnx.Module):
    """VGG16 or VGG19. The outputs of its blocks are named `block1` to `block5`."""

    def __init__(self, spec: models.ModelSpec, variables: Variables):
        arrays, rngs = _arrays(spec, variables), nnx.Rngs(0)
        sizes = [kernel.shape[-2:] for kernel, _ in arrays]
        self.counts = BLOCKS[spec.name]
        self.convolutions = nnx.List(
            nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
            for inputs, outputs in sizes[:-1]
        )
        self.head = nnx.Linear(*sizes[-1], rngs=rngs)
        layers: list[Any] = [*self.convolutions, self.head]
        for layer, (kernel, bias) in zip(layers, arrays, strict=True):
            layer.kernel[...], layer.bias[...] = kernel, bias

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        convolutions = iter(self.convolutions)
        for block, count in enumerate(self.counts, start=1):
            for _ in range(count):
                x = nnx.relu(next(convolutions)(x))
            x = checkpoint_name(x, f"block{block}")
            x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.head(x.mean((1, 2)))
