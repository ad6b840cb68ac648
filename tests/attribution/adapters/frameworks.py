"""One small network in six frameworks, with the same weights.

The network is conv1, ReLU, a block of conv2 and ReLU, the mean over places, dropout and
dense. `reference` is written by hand, with endpoints and taps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr

SHAPE, CLASSES = (24, 32, 3), 5
LAYERS = {"conv1": (24, 32, 6), "block/conv2": (11, 15, 8), "block": (11, 15, 8)}


class Adapted(NamedTuple):
    """A network function, what it was adapted from, and a call of the original."""

    network: Any
    original: Any
    call: Callable[[Any], Any]


def _weights():
    rng = np.random.default_rng(0)
    shapes = {"conv1": (3, 3, 3, 6), "conv2": (3, 3, 6, 8), "dense": (8, CLASSES)}
    return {
        name: (
            rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32),
            rng.normal(0, 0.1, shape[-1:]).astype(np.float32),
        )
        for name, shape in shapes.items()
    }


WEIGHTS = _weights()


def preprocess(images):
    return images / 127.5 - 1


def _convolve(x, weights, strides, padding):
    kernel, bias = weights
    axes = ("NHWC", "HWIO", "NHWC")
    return (
        jax.lax.conv_general_dilated(x, kernel, strides, padding, None, None, axes)
        + bias
    )


def _plain(weights, images, end):
    """Compute the network, with layers from `end(value, name)`."""
    x = end(_convolve(images, weights["conv1"], (1, 1), "SAME"), "conv1")
    x = end(_convolve(jax.nn.relu(x), weights["conv2"], (2, 2), "VALID"), "block/conv2")
    x = end(jax.nn.relu(x), "block").mean((1, 2))
    return x @ weights["dense"][0] + weights["dense"][1]


def reference(images, taps=None):
    endpoints = {}

    def end(value, name):
        endpoints[name] = value + (taps or {}).get(name, 0)
        return endpoints[name]

    return _plain(WEIGHTS, preprocess(images), end), endpoints


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(8, (3, 3), 2, padding="VALID", name="conv2")(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(nn.Conv(6, (3, 3), name="conv1")(x))
        x = LinenBlock(name="block")(x).mean((1, 2))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(CLASSES, name="dense")(x)


def linen():
    params = {name: {"kernel": k, "bias": b} for name, (k, b) in WEIGHTS.items()}
    params["block"] = {"conv2": params.pop("conv2")}
    module, variables = LinenNet(), {"params": params}
    network = attr.from_linen(module, variables, preprocess=preprocess, train=False)
    return Adapted(network, module, lambda x: module.apply(variables, x, train=False))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.conv2 = nnx.Conv(6, 8, (3, 3), 2, padding="VALID", rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.conv2(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.block = NnxBlock(rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.block(nnx.relu(self.conv1(x))).mean((1, 2))
        return self.dense(self.dropout(x))


def nnx_net():
    model = NnxNet(nnx.Rngs(0))
    layers = {"conv1": model.conv1, "conv2": model.block.conv2, "dense": model.dense}
    for name, layer in layers.items():
        layer.kernel[...], layer.bias[...] = WEIGHTS[name]
    network = attr.from_nnx(model, preprocess=preprocess)
    return Adapted(network, model, nnx.view(model, deterministic=True))


def keras_net():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(6, 3, padding="same", name="conv1"),
            layers.ReLU(name="relu"),
            keras.Sequential(
                [layers.Conv2D(8, 3, 2, name="conv2"), layers.ReLU()], name="block"
            ),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(CLASSES, name="dense"),
        ]
    )
    model.set_weights([array for pair in WEIGHTS.values() for array in pair])
    network = attr.from_keras(model, preprocess=preprocess)
    return Adapted(network, model, lambda x: model(x, training=False))


class EquinoxBlock(eqx.Module):
    conv2: eqx.nn.Conv2d

    def __call__(self, x):
        return jax.nn.relu(self.conv2(x))


class EquinoxNet(eqx.Module):
    conv1: eqx.nn.Conv2d
    block: EquinoxBlock
    dropout: eqx.nn.Dropout
    dense: eqx.nn.Linear

    def __call__(self, x):
        x = self.block(jax.nn.relu(self.conv1(x))).mean((1, 2))
        return self.dense(self.dropout(x))


def equinox_net():
    key = jax.random.key(0)
    model = EquinoxNet(
        eqx.nn.Conv2d(3, 6, 3, padding="SAME", key=key),
        EquinoxBlock(eqx.nn.Conv2d(6, 8, 3, 2, key=key)),
        eqx.nn.Dropout(0.5),
        eqx.nn.Linear(8, CLASSES, key=key),
    )

    def leaves(m):
        layers = m.conv1, m.block.conv2, m.dense
        return [array for layer in layers for array in (layer.weight, layer.bias)]

    arrays = [
        array
        for kernel, bias in WEIGHTS.values()
        for array in (
            jnp.moveaxis(kernel, (-1, -2), (0, 1)),
            bias.reshape(-1, *[1] * (kernel.ndim - 2)),
        )
    ]
    model = eqx.tree_at(leaves, model, arrays)
    network = attr.from_equinox(model, preprocess=preprocess)
    inference = jax.vmap(eqx.nn.inference_mode(model))
    return Adapted(network, model, lambda x: inference(jnp.moveaxis(x, -1, 1)))


class HaikuBlock(hk.Module):
    def __call__(self, x):
        return jax.nn.relu(hk.Conv2D(8, 3, 2, padding="VALID", name="conv2")(x))


def haiku_net():
    def forward(x, is_training=True):
        x = jax.nn.relu(hk.Conv2D(6, 3, name="conv1")(x))
        x = HaikuBlock(name="block")(x).mean((1, 2))
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
        return hk.Linear(CLASSES, name="dense")(x)

    params = {name: {"w": w, "b": b} for name, (w, b) in WEIGHTS.items()}
    params["block/conv2"] = params.pop("conv2")
    apply = hk.transform(forward).apply
    network = attr.from_haiku(apply, params, preprocess=preprocess, is_training=False)
    return Adapted(network, params, lambda x: apply(params, None, x, is_training=False))


def function():
    def f(weights, images):
        return _plain(weights, images, checkpoint_name)

    network = attr.from_function(f, WEIGHTS, preprocess=preprocess)
    return Adapted(network, f, lambda x: f(WEIGHTS, x))


FRAMEWORKS = {
    "linen": linen,
    "nnx": nnx_net,
    "keras": keras_net,
    "equinox": equinox_net,
    "haiku": haiku_net,
    "function": function,
}


def torch_net():
    """Return the network of preprocessed images [n, 3, h, w], and its block."""
    block = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3, 2), torch.nn.ReLU())
    conv1, dense = torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Linear(8, CLASSES)
    layers = {"conv1": conv1, "conv2": block[0], "dense": dense}
    for name, layer in layers.items():
        kernel, bias = WEIGHTS[name]
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1)).copy()
        layer.weight.data, layer.bias.data = torch.tensor(kernel), torch.tensor(bias)
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = torch.nn.Sequential(conv1, torch.nn.ReLU(), block, pool, dense)
    return network.eval(), block
