"""Classify fine-grained images by transfer learning, and explain the predictions.

    import seeflower_jax as sf

    network = sf.load("runs/inception_seed0")      # a run, an export, a weight file
    network.predict("photos/")                     # images, classes, probabilities
    explanation = network.explain("rose.jpg", "grad_cam", target="rose")
    explanation.overlay().save("cam.png")

A room is a folder of the package. The list starts with the lowest rooms. A lower room
never imports a higher room:

    sharding, download, records, hints     devices, files, names
    data           images to batches: sources, pixel cache, View, Augmentation, loader
    models         networks as pure functions
    training       partition, optimizer, step, progress, checkpoints, loop
    evaluation     logits, metrics and calibration of whole splits
    pretrained     weight files to variables, and back
    attribution    methods on any JAX network, one a file
    figures        arrays to images and plots
    inference      a trained network from a run, an export or a weight file
    experiment     a run, from its config to its result
    comparison     comparisons with Keras, PyTorch and captum
    explain        jobs over many images: attribution, metrics of maps, maximisation
    report         the HTML page of a run
    studies        the paper's tables and figures, ablation, quick start

The package imports a room only when it is first used, so its own import is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seeflower_jax.explain.attribute import attribute
    from seeflower_jax.inference.load import load

__version__ = "0.2.0.dev0"
__all__ = ["__version__", "attribute", "load"]

_HOMES = {"attribute": "explain.attribute", "load": "inference.load"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(module, name)
    try:  # a room, as in `sf.models`
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
