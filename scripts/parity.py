"""Compares every block of the networks with the frameworks that their weights are from.

    python -m scripts.parity --weights=DIR --out=results/parity.json IMAGE IMAGE IMAGE

Keras and torchvision run each network, and so does this package with the file that they
saved; the table has max |difference| / max |reference| over blocks, and of the logits.
`DIR` holds Keras' `notop` files, without which those rows are left out; the other rows
are on random variables, batch statistics among them.
"""

import json
import pathlib
import tempfile

import jax
import numpy as np
import safetensors.torch
import torch
from absl import app, flags
from PIL import Image

from scripts import references
from seeflower_jax import models
from seeflower_jax.pretrained import catalog

_WEIGHTS = flags.DEFINE_string("weights", "", "Folder of Keras' weight files.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write every block's figure to.")
_MODELS = flags.DEFINE_list("models", ["inception_v3", "vgg16", "vgg19"], "Which.")
_SIZE = flags.DEFINE_integer("size", 0, "Side of the pictures; 0 is the networks'.", 0)


def errors(model, path, images, reference):
    """{endpoint: max |difference| / max |reference|} of what a weight file computes."""
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


def compare(model, images, folder, weights):
    """Yields (source, errors) for each kind of weight file of a network."""
    side, folder = images.shape[1], pathlib.Path(folder)
    path = pathlib.Path(weights or "") / catalog.CATALOG[model].name
    if path.is_file():
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


def main(argv) -> None:
    table = []
    print("| network | weights | blocks | logits |\n|---|---|---|---|")
    for model in _MODELS.value:
        side = _SIZE.value or models.get_spec(model).input_size
        pictures = [Image.open(name).convert("RGB") for name in argv[1:]]
        images = np.stack([picture.resize((side, side)) for picture in pictures])
        with tempfile.TemporaryDirectory() as folder:
            for source, found in compare(model, images, folder, _WEIGHTS.value):
                table.append({"model": model, "source": source, "errors": found})
                logits = found.get("logits")
                last = "" if logits is None else f"{logits:.1e}"
                blocks = max(v for k, v in found.items() if k != "logits")
                print(f"| {model} | {source} | {blocks:.1e} | {last} |", flush=True)
    if _OUT.value:
        pathlib.Path(_OUT.value).write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
