"""Write small files in the layouts of the real files."""

import pathlib

import h5py
import jax
import numpy as np
import scipy.io
from PIL import Image

from seeflower_jax import models
from seeflower_jax.pretrained import keras_h5

CLASSES, TRAIN, VALIDATION, TEST = 4, 4, 3, 5
NARROW_WIDTH = 0.05
# Options for attribution methods that need many passes by default.
FEW_PASSES = {
    "rise": {"samples": 8},
    "occlusion": {"window": 16, "stride": 16},
    "kernel_shap": {"cells": 2, "samples": 14},
    "feature_ablation": {"cells": 2},
    "gradient_shap": {"samples": 4},
    "layer_conductance": {"steps": 4},
}


def write_flowers(folder: pathlib.Path, side: int = 90) -> None:
    """Write jpg/, imagelabels.mat and setid.mat; each class has its own colour."""
    rng = np.random.default_rng(0)
    per_class = TRAIN + VALIDATION + TEST
    labels = rng.permutation(np.repeat(np.arange(CLASSES), per_class))
    (folder / "jpg").mkdir(parents=True)
    seen = np.zeros(CLASSES, int)
    splits = {"trnid": [], "valid": [], "tstid": []}
    colours = np.eye(3)[np.arange(CLASSES) % 3] * 150 + 40 * (
        np.arange(CLASSES)[:, None] // 3
    )
    for index, label in enumerate(labels):
        height, width = side + index % 7, side + index % 11
        pixels = colours[label] + rng.normal(30, 10, (height, width, 3))
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / "jpg" / f"image_{index + 1:05d}.jpg", quality=95)
        part = np.searchsorted([TRAIN, TRAIN + VALIDATION], seen[label], side="right")
        splits[list(splits)[part]].append(index + 1)
        seen[label] += 1
    scipy.io.savemat(
        folder / "imagelabels.mat", {"labels": (labels + 1)[None].astype(np.uint8)}
    )
    scipy.io.savemat(
        folder / "setid.mat",
        {name: np.array([ids], np.uint16) for name, ids in splits.items()},
    )


def write_keras_h5(path: pathlib.Path, layers) -> None:
    """Write [(layer, [(weight name, array)])] as a Keras HDF5 weight file."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name, _ in layers])
        for name, weights in layers:
            group = file.create_group(name)
            names = [weight.encode() for weight, _ in weights]
            group.attrs["weight_names"] = np.array(names, dtype="S80")
            for weight, array in weights:
                group.create_dataset(weight, data=array)


def random_variables(spec: models.ModelSpec, seed: int) -> dict:
    """Return random variables as `models.init` does, without compiling it."""
    like = models.shapes(spec)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(0, scale, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("var", "scale"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, like)


def narrow_variables(seed: int) -> dict:
    """Return variables of a narrow Inception-v3, with random batch statistics."""
    spec = models.get_spec("inception_v3", num_classes=102, width=NARROW_WIDTH)
    variables = random_variables(spec, seed)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):  # means around 0, because signals would vanish
        low, high = {"mean": (-0.2, 0.2), "var": (0.5, 1.5)}[path[-1].key]
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    stats = jax.tree_util.tree_map_with_path(draw, variables["batch_stats"])
    return {"params": variables["params"], "batch_stats": stats}


def inception_layers(variables: dict, first: int = 1) -> list:
    """Return the layers of a Keras file of these variables, numbered from `first`."""
    layers = []
    for number, name in enumerate(keras_h5.INCEPTION_V3_CONVS, first):
        suffix = f"_{number}" if number else ""
        conv, norm = f"conv2d{suffix}", f"batch_normalization{suffix}"
        params = variables["params"]["backbone"][name]
        stats = variables["batch_stats"]["backbone"][name]["bn"]
        kernel = np.asarray(params["conv"]["kernel"])
        layers += [
            (conv, [(f"{conv}/kernel:0", kernel)]),
            (
                norm,
                [
                    (f"{norm}/beta:0", np.asarray(params["bn"]["bias"])),
                    (f"{norm}/moving_mean:0", np.asarray(stats["mean"])),
                    (f"{norm}/moving_variance:0", np.asarray(stats["var"])),
                ],
            ),
            (f"activation{suffix}", []),
        ]
    return layers


def write_inception_h5(path: pathlib.Path, variables: dict, first: int = 1) -> None:
    """Write variables of Inception-v3 as a Keras `notop` file."""
    write_keras_h5(path, inception_layers(variables, first))
