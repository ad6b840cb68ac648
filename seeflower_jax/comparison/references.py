"""The networks of Keras and torchvision, and the outputs of all their blocks.

    network = keras_network("vgg16", 224)
    outputs = keras_outputs("vgg16", network, images)   # {'block1_conv1': ...}

`parity` and the tests compare the networks of this package with them. The variables are
random, or come from a weight file.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import keras
import numpy as np
import torch
import torchvision
from jaxtyping import Float, UInt8

from seeflower_jax import models
from seeflower_jax.models.functional import endpoint_shapes

# {endpoint: array [n, h, w, c], 'logits': array [n, c]}
Outputs: TypeAlias = dict[str, Float[np.ndarray, "n ..."]]

_KERAS = {
    "inception_v3": keras.applications.InceptionV3,
    "vgg16": keras.applications.VGG16,
    "vgg19": keras.applications.VGG19,
}
_TORCH_BLOCKS = "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()


def random_arrays(
    names_and_shapes: Iterable[tuple[str, tuple[int, ...]]],
) -> Iterator[np.ndarray]:
    """Yield a random array for each weight, scaled to keep signals from vanishing.

    The name of a weight determines its distribution: variances are in [0.5, 2], biases
    and means are near 0, scales near 1, kernels have a variance of 2 / fan-in.
    """
    rng = np.random.default_rng(0)
    for name, shape in names_and_shapes:
        if "var" in name:
            yield rng.uniform(0.5, 2, shape)
        elif len(shape) > 1:
            fan_in = np.prod(shape) / (shape[0] if "torch" in name else shape[-1])
            yield rng.normal(0, (2 / fan_in) ** 0.5, shape)
        else:
            yield rng.normal(1.0 if "scale" in name else 0.0, 0.1, shape)


def keras_network(model: str, side: int, weights: str | None = None) -> keras.Model:
    """Return Keras' network.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      side: the side of the images in pixels.
      weights: a `notop` file, for a network without a classifier. None returns a
        network with random variables and a classifier.
    """
    options = {"include_top": weights is None, "input_shape": (side, side, 3)}
    options |= {} if weights else {"classifier_activation": None}
    network = _KERAS[model](weights=weights, **options)
    if weights is None:
        shapes = [(weight.path, tuple(weight.shape)) for weight in network.weights]
        network.set_weights(list(random_arrays(shapes)))
    return network


def keras_outputs(
    model: str, network: keras.Model, images: UInt8[np.ndarray, "n h w 3"]
) -> Outputs:
    """Return the outputs of Keras' network, with 'logits' if it has a classifier."""
    layers = {layer.name for layer in network.layers}
    endpoints = [name for name in _endpoints(model) if name in layers]
    outputs = [network.get_layer(name).output for name in endpoints]
    if network.layers[-1].name == "predictions":
        endpoints, outputs = [*endpoints, "logits"], [*outputs, network.output]
    preprocess = getattr(keras.applications, model).preprocess_input
    inputs = preprocess(np.array(images, np.float32))
    arrays = keras.Model(network.input, outputs).predict(inputs, verbose=0)
    return dict(zip(endpoints, arrays, strict=True))


def _endpoints(model: str) -> list[str]:
    """Return the names of the endpoints of a network in this package."""
    spec = models.get_spec(model)
    return list(endpoint_shapes(spec, spec.input_size))


def torch_network(model: str) -> torch.nn.Module:
    """Return torchvision's network with random variables and a classifier."""
    options = {"inception_v3": {"transform_input": True}}.get(model, {})
    network = getattr(torchvision.models, model)(init_weights=False, **options).eval()
    shapes = [
        (f"torch {'scale' if '.bn.weight' in name else ''} {name}", tuple(t.shape))
        for name, t in network.state_dict().items()
        if t.ndim
    ]
    arrays = random_arrays(shapes)
    state = {
        name: torch.tensor(next(arrays), dtype=torch.float32) if t.ndim else t
        for name, t in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network


def torch_outputs(
    model: str, network: torch.nn.Module, images: UInt8[np.ndarray, "n h w 3"]
) -> Outputs:
    """Return the outputs of torchvision's network, by the endpoints of this package."""
    arrays = {}
    for name, module in _torch_modules(model, network).items():

        def record(module, inputs, output, name=name):
            arrays[name] = output.detach().permute(0, 2, 3, 1).numpy().copy()

        module.register_forward_hook(record)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = (torch.tensor(np.array(images, np.float32)) / 255 - mean) / std
    with torch.no_grad():
        logits = network(inputs.permute(0, 3, 1, 2))
    return arrays | {"logits": logits.numpy()}


def _torch_modules(model: str, network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return {endpoint: the module of torchvision's network that computes it}."""
    endpoints = _endpoints(model)
    if model == "inception_v3":
        pools = {"MaxPool_3a_3x3": "maxpool1", "MaxPool_5a_3x3": "maxpool2"}
        mixed = {f"mixed{i}": f"Mixed_{b}" for i, b in enumerate(_TORCH_BLOCKS)}
        names = pools | mixed
        for name in endpoints:  # mixed0_branch1x1 is Mixed_5b.branch1x1
            block, _, layer = name.partition("_")
            if block in mixed and layer:
                names[name] = f"{mixed[block]}.{layer}"
        modules = [network.get_submodule(names.get(n, n)) for n in endpoints]
    else:
        kinds = (torch.nn.ReLU, torch.nn.MaxPool2d)
        layers = network.get_submodule("features").children()
        modules = [layer for layer in layers if isinstance(layer, kinds)]
    return dict(zip(endpoints, modules, strict=True))
