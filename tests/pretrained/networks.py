"""Build small networks of Keras and torchvision, and compute their outputs."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import keras
import numpy as np
import torch
import torchvision

from seeflower_jax import models
from seeflower_jax.models import vgg

WIDTH, HIDDEN, CLASSES = 0.05, (12, 10), 7
CHANNELS = [round(min(32 * 2**block, 512) * WIDTH) for block in range(1, 6)]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def keras_vgg(top: bool = True) -> keras.Model:
    """Return a narrow VGG16 with Keras' names and random variables."""
    inputs = x = keras.Input((224, 224, 3))
    for block, (count, channels) in enumerate(zip(vgg.VGG16, CHANNELS, strict=True), 1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            conv = keras.layers.Conv2D(
                channels, 3, padding="same", activation="relu", name=name
            )
            x = conv(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    if top:
        x = keras.layers.Flatten()(x)
        for number, units in enumerate(HIDDEN, start=1):
            x = keras.layers.Dense(units, "relu", name=f"fc{number}")(x)
        x = keras.layers.Dense(CLASSES, name="predictions")(x)
    return randomised(keras.Model(inputs, x))


def randomised(network: keras.Model) -> keras.Model:
    """Give a network nonzero biases, and return the network."""
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            scale = (2 / np.prod(kernel.shape[:-1])) ** 0.5
            layer.set_weights(
                [rng.normal(0, scale, kernel.shape), rng.normal(0, 0.1, bias.shape)]
            )
    return network


def keras_logits(network: keras.Model, images=IMAGES) -> np.ndarray:
    """Return the logits of a Keras VGG."""
    prepared = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    return network.predict(prepared, verbose=0)


def torch_vgg() -> torch.nn.Module:
    """Return a narrow VGG16 of torchvision with random variables."""
    plan = []
    for count, channels in zip(vgg.VGG16, CHANNELS, strict=True):
        plan += [channels] * count + ["M"]
    torch.manual_seed(0)
    network = torchvision.models.vgg.VGG(torch.nn.Sequential(), init_weights=False)
    layers, last = [], 3
    for entry in plan:
        if entry == "M":
            layers.append(torch.nn.MaxPool2d(2, 2))
        else:
            layers += [torch.nn.Conv2d(last, entry, 3, padding=1), torch.nn.ReLU()]
            last = entry
    network.features = torch.nn.Sequential(*layers)
    first, second = HIDDEN
    network.classifier[0] = torch.nn.Linear(last * 49, first)
    network.classifier[3] = torch.nn.Linear(first, second)
    network.classifier[6] = torch.nn.Linear(second, CLASSES)
    return network.eval()


def torch_logits(network: torch.nn.Module, images=IMAGES) -> np.ndarray:
    """Return the logits of a torchvision VGG."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    prepared = (torch.tensor(images) / 255 - mean) / std
    with torch.no_grad():
        return network(prepared.permute(0, 3, 1, 2)).numpy()


def logits(spec: models.ModelSpec, variables, images=IMAGES) -> np.ndarray:
    """Return the logits of a network of this package."""
    return np.asarray(models.apply(spec, variables, images)[0])


def assert_close(ours, reference):
    """Assert that max |difference| is below 1e-4 of max |reference|."""
    error = np.abs(ours - reference).max() / np.abs(reference).max()
    assert error < 1e-4, error
