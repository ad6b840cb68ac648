"""Blocks of the networks beside those of the frameworks that their weights are from.

for source, errors in compare("vgg16", images, folder="/tmp/x", weights="weights/"):
    max(errors.values())    # max |difference| / max |reference|, below 1e-4

Keras and torchvision run each network, and so does this package with the file that they
saved.
"""

import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import safetensors.torch
import torch

from seeflower_jax import models
from seeflower_jax.comparison import references
from seeflower_jax.pretrained import catalog


def errors(
    model: str, path: str | os.PathLike, images: np.ndarray, reference: dict
) -> dict[str, float]:
    """{endpoint: max |difference| / max |reference|} of what a weight file computes.

    Args:
      model: key of `models.MODELS`.
      path: of the weight file.
      images: uint8 [N, H, W, 3].
      reference: {endpoint: array}, 'logits' among them if the file has the classifier.
    """
    if "logits" in reference:
        spec, variables, _ = catalog.load_classifier(model, str(path))
    else:
        spec, variables, _ = catalog.load_pretrained(models.get_spec(model), str(path))
    call = jax.jit(lambda v, x: models.apply(spec, v, x))
    logits, ours = call(variables, np.asarray(images))
    ours = ours | {"logits": logits}
    return {
        name: float(np.abs(ours[name] - array).max() / np.abs(array).max())
        for name, array in reference.items()
    }


def compare(
    model: str, images: np.ndarray, folder: str | os.PathLike, weights: str = ""
) -> Iterator[tuple[str, dict[str, float]]]:
    """(source, errors) for each kind of weight file of a network.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      images: uint8 [N, H, W, 3].
      folder: for the files in between.
      weights: a folder of Keras' `notop` files. Without the network's, the row of the
        published weights is left out; the other rows are on random variables, batch
        statistics among them.
    """
    side, folder = images.shape[1], pathlib.Path(folder)
    path = pathlib.Path(weights).expanduser() / catalog.CATALOG[model].name
    if weights and path.is_file():
        network = references.keras_network(model, side, str(path))
        reference = references.keras_outputs(model, network, images)
        yield "Keras .h5, ImageNet", errors(model, path, images, reference)
    network = references.keras_network(model, side)
    reference = references.keras_outputs(model, network, images)
    for ending, save in ((".weights.h5", "save_weights"), (".keras", "save")):
        path = folder / f"{model}{ending}"
        getattr(network, save)(path)
        yield f"Keras {ending}", errors(model, path, images, reference)
        path.unlink()
    network = references.torch_network(model)
    reference = references.torch_outputs(model, network, images)
    saves = {".pth": torch.save, ".safetensors": safetensors.torch.save_file}
    for ending, save in saves.items():
        path = folder / f"{model}{ending}"
        save(network.state_dict(), path)
        yield f"torchvision {ending}", errors(model, path, images, reference)
        path.unlink()
