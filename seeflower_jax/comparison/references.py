"""Keras' and torchvision's networks, random or with weights, and all their outputs.

    network = keras_network("vgg16", 224)
    outputs = keras_outputs("vgg16", network, images)   # {'block1_conv1': ...}

What `parity` and the tests compare the networks here with.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import jax
import keras
import numpy as np
import torch
import torchvision

from seeflower_jax import models

_KERAS = {
    "inception_v3": keras.applications.InceptionV3,
    "vgg16": keras.applications.VGG16,
    "vgg19": keras.applications.VGG19,
}
_TORCH_BLOCKS = "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()


def randomise(tensor_names_and_shapes, seed=0):
    """Random arrays by the kind of weight that a name tells, so that signals live."""
    rng = np.random.default_rng(seed)
    for name, shape in tensor_names_and_shapes:
        if "var" in name:
            yield rng.uniform(0.5, 2, shape)
        elif len(shape) > 1:
            fan_in = np.prod(shape) / (shape[0] if "torch" in name else shape[-1])
            yield rng.normal(0, (2 / fan_in) ** 0.5, shape)
        else:
            yield rng.normal(1.0 if "scale" in name else 0.0, 0.1, shape)


def keras_network(model, side, weights=None):
    """Keras' network of a `notop` file, or a random one with a classifier."""
    options = {"include_top": weights is None, "input_shape": (side, side, 3)}
    options |= {} if weights else {"classifier_activation": None}
    network = _KERAS[model](weights=weights, **options)
    if weights is None:
        named = [(w.path, tuple(w.shape)) for w in network.weights]
        network.set_weights(list(randomise(named)))
    return network


def keras_outputs(model, network, images):
    """{endpoint: array} of Keras' network on pictures; 'logits' among them."""
    endpoints = [n for n in _endpoints(model) if n in {w.name for w in network.layers}]
    outputs = [network.get_layer(name).output for name in endpoints]
    if network.layers[-1].name == "predictions":
        endpoints, outputs = [*endpoints, "logits"], [*outputs, network.output]
    prepare = getattr(keras.applications, model).preprocess_input
    inputs = prepare(np.array(images, np.float32))
    arrays = keras.Model(network.input, outputs).predict(inputs, verbose=0)
    return dict(zip(endpoints, arrays, strict=True))


def _endpoints(model):
    spec = models.get_spec(model)
    images = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, 3), np.uint8)
    call = lambda v, x: models.apply(spec, v, x)[1]  # noqa: E731
    return list(jax.eval_shape(call, models.shapes(spec), images))


def torch_network(model):
    """torchvision's network with random variables."""
    options = {"inception_v3": {"transform_input": True}}.get(model, {})
    network = getattr(torchvision.models, model)(init_weights=False, **options).eval()
    named = [
        (f"torch {'scale' if '.bn.weight' in name else ''} {name}", tuple(t.shape))
        for name, t in network.state_dict().items()
        if t.ndim
    ]
    arrays = randomise(named)
    state = {
        name: torch.tensor(next(arrays), dtype=torch.float32) if t.ndim else t
        for name, t in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network


def torch_outputs(model, network, images):
    """{endpoint: array} of torchvision's network on pictures; 'logits' among them."""
    ours, arrays = _endpoints(model), {}
    if model == "inception_v3":
        pools = {"MaxPool_3a_3x3": "maxpool1", "MaxPool_5a_3x3": "maxpool2"}
        mixed = {f"mixed{i}": f"Mixed_{b}" for i, b in enumerate(_TORCH_BLOCKS)}
        theirs = pools | mixed
        modules = [network.get_submodule(theirs.get(name, name)) for name in ours]
    else:
        kinds = (torch.nn.ReLU, torch.nn.MaxPool2d)
        modules = [layer for layer in network.features if isinstance(layer, kinds)]
    for name, module in zip(ours, modules, strict=True):

        def keep(module, inputs, output, name=name):
            arrays[name] = output.detach().permute(0, 2, 3, 1).numpy().copy()

        module.register_forward_hook(keep)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = (torch.tensor(np.array(images, np.float32)) / 255 - mean) / std
    with torch.no_grad():
        logits = network(inputs.permute(0, 3, 1, 2))
    return arrays | {"logits": logits.numpy()}
