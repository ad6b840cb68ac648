"""A small network in JAX and in PyTorch, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr
from seeflower_jax.comparison.pairs import Pair, to_torch
from seeflower_jax.comparison.torch_networks import TorchNetwork
from tests.attribution.rules import networks

SIDE, CHANNELS, CLASSES = 12, 6, 4
PARAMETERS, _ = networks.arrays(side=SIDE, channels=CHANNELS, classes=CLASSES)
LABELS = jnp.array([3, 1])
LAYERS = ("first", "second")


def preprocess(images):
    return images / 127.5 - 1


def forward(parameters, x):
    x = jax.nn.relu(networks.convolve(x, *parameters["first"]))
    x = checkpoint_name(x, "first")
    window = (1, 2, 2, 1)
    x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    x = jax.nn.relu(networks.convolve(x, *parameters["second"]))
    x = checkpoint_name(x, "second")
    kernel, bias = parameters["head"]
    return x.mean((1, 2)) @ kernel + bias


def network(dtype=np.float32):
    """Return the network, which takes images in [0, 255]."""
    parameters = jax.tree.map(lambda array: np.asarray(array, dtype), PARAMETERS)
    return attr.from_function(forward, parameters, preprocess=preprocess)


def images(count=2):
    coarse = np.random.default_rng(1).uniform(0, 255, (count, 4, 4, 3))
    return jnp.array(coarse.repeat(3, 1).repeat(3, 2), jnp.float32)


def torch_network():
    """Return the network in PyTorch, which takes images in [0, 255], too."""
    first = torch.nn.Conv2d(3, CHANNELS, 3, padding=1)
    second = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    head = torch.nn.Linear(CHANNELS, CLASSES)
    for layer, (kernel, bias) in zip(
        (first, second, head), PARAMETERS.values(), strict=True
    ):
        kernel = np.asarray(kernel)
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        layer.weight.data = torch.tensor(kernel.transpose(axes).copy())
        layer.bias.data = torch.tensor(np.asarray(bias))
    relu, pool = torch.nn.ReLU, torch.nn.MaxPool2d(2)
    return TorchNetwork(preprocess, [first, relu(), pool, second, relu()], head).eval()


def pair(layer, dtype=np.float32):
    """Return the network in both frameworks, with the images and a layer."""
    pixels = np.asarray(images(), dtype)
    in_torch = torch_network().to(to_torch(pixels).dtype)
    module = in_torch.layers[{"first": 1, "second": 4}[layer]]
    return Pair(network(dtype), layer, in_torch, module, pixels, np.asarray(LABELS))
