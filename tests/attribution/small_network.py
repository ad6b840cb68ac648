"""A small network in JAX and in PyTorch, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr
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


def network():
    """Return the network, which takes images in [0, 255]."""
    return attr.from_function(forward, PARAMETERS, preprocess=preprocess)


def images(count=2):
    coarse = np.random.default_rng(1).uniform(0, 255, (count, 4, 4, 3))
    return jnp.array(coarse.repeat(3, 1).repeat(3, 2), jnp.float32)


class TorchNetwork(torch.nn.Module):
    """The network in PyTorch. It takes preprocessed images [n, 3, h, w]."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.second = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.head = torch.nn.Linear(CHANNELS, CLASSES)
        self.first_relu, self.second_relu = torch.nn.ReLU(), torch.nn.ReLU()
        for name, (kernel, bias) in PARAMETERS.items():
            kernel = np.asarray(kernel)
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer = getattr(self, name)
            layer.weight.data = torch.tensor(kernel.transpose(axes).copy())
            layer.bias.data = torch.tensor(np.asarray(bias))

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(self.first_relu(self.first(x)), 2)
        return self.head(self.second_relu(self.second(x)).mean((2, 3)))


def to_torch(pixels):
    """Return preprocessed images for PyTorch."""
    return torch.tensor(np.asarray(preprocess(pixels)).transpose(0, 3, 1, 2).copy())
