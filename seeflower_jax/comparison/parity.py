"""Compare every block of the networks with Keras and torchvision.

    for source, errors in compare("vgg16", images, folder="/tmp/x", weights="weights/"):
        max(errors.values())    # max |difference| / max |reference|, below 1e-4

Keras and torchvision run each network and save it to a file. This package loads the
file and runs its own network.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, UInt8

from seeflower_jax import models
from seeflower_jax.comparison import references
from seeflower_jax.pretrained import loading, published


def endpoint_errors(
    model: str,
    path: str | os.PathLike,
    images: UInt8[np.ndarray, "n h w 3"],
    reference: Mapping[str, Float[np.ndarray, "n ..."]],
) -> dict[str, float]:
    """Return {endpoint: max |difference| / max |reference|} for a weight file.

    Args:
      model: the name of the network, a key of `models.MODELS`.
      path: the weight file.
      images: RGB.
      reference: {endpoint: array}, with 'logits' if the file has the classifier.
    """
    if "logits" in reference:
        spec, variables, _ = loading.load_classifier(model, str(path))
    else:
        spec, variables, _ = loading.load_pretrained(models.get_spec(model), str(path))
    run = jax.jit(functools.partial(models.apply, spec))
    logits, endpoints = run(variables, np.asarray(images))
    outputs = endpoints | {"logits": logits}
    return {
        name: float(np.abs(outputs[name] - array).max() / np.abs(array).max())
        for name, array in reference.items()
    }


def compare(
    model: str,
    images: UInt8[np.ndarray, "n h w 3"],
    folder: str | os.PathLike,
    weights: str = "",
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (source, errors) for each kind of weight file of a network.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      images: RGB.
      folder: a folder for temporary files.
      weights: a folder of Keras' `notop` files. The comparison on published weights is
        skipped if the folder lacks the file of the network. All other comparisons use
        random variables, with random batch statistics.
    """
    side, folder = images.shape[1], pathlib.Path(folder)
    path = pathlib.Path(weights).expanduser() / published.CATALOG[model].name
    if weights and path.is_file():
        network = references.keras_network(model, side, str(path))
        reference = references.keras_outputs(model, network, images)
        yield "Keras .h5, ImageNet", endpoint_errors(model, path, images, reference)
    network = references.keras_network(model, side)
    reference = references.keras_outputs(model, network, images)
    keras_saves = {".weights.h5": network.save_weights, ".keras": network.save}
    for ending, save in keras_saves.items():
        path = folder / f"{model}{ending}"
        save(path)
        yield f"Keras {ending}", endpoint_errors(model, path, images, reference)
        path.unlink()
    network = references.torch_network(model)
    reference = references.torch_outputs(model, network, images)
    torch_saves: dict[str, Callable[..., object]] = {
        ".pth": torch.save,
        ".safetensors": safetensors.torch.save_file,
    }
    for ending, save_state in torch_saves.items():
        path = folder / f"{model}{ending}"
        save_state(network.state_dict(), path)
        yield f"torchvision {ending}", endpoint_errors(model, path, images, reference)
        path.unlink()
