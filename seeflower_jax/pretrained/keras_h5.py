"""Keras' weight files -> variables of the networks here, and back.

    variables = convert("vgg16", read(path), path)
    write(path, layers("vgg16", variables))

`read` takes the HDF5 files of Keras 1 and 2, weights alone or whole models, and both
archives of Keras 3, `.weights.h5` and `.keras`. Only arrays and names are read; nothing
in a file is run.
"""

import io
import itertools
import os
import re
import zipfile

import h5py
import numpy as np

from seeflower_jax.models import vgg as network
from seeflower_jax.pretrained import keras_archive
from seeflower_jax.pretrained.errors import WeightFileError

_ROOT_CONVS = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
)
# The convolutions of each block in the order in which Keras creates them, which is the
# order of the numbers in the layers' names. The order of the layers in a file is
# another.
_A = ("1x1", "5x5_1", "5x5_2", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", "_pool")
_B = ("3x3", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3")
_C = (
    *("1x1", "7x7_1", "7x7_2", "7x7_3"),
    *("7x7dbl_1", "7x7dbl_2", "7x7dbl_3", "7x7dbl_4", "7x7dbl_5", "_pool"),
)
_D = ("3x3_1", "3x3_2", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4")
_E = (
    *("1x1", "3x3_1", "3x3_2a", "3x3_2b"),
    *("3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b", "_pool"),
)
INCEPTION_V3_CONVS = _ROOT_CONVS + tuple(
    f"mixed{block}_branch{branch}"
    for block, branches in enumerate((_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E))
    for branch in branches
)


# Keras' names of dense layers -> ours.
_HEAD = {"fc1": "fc1", "fc2": "fc2", "predictions": "logits"}
_VGGS = {"vgg16": network.VGG16, "vgg19": network.VGG19}


def read(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """The weighted layers of a Keras file and their arrays, in the file's order.

    Raises:
      FileNotFoundError: if there is no such file.
      WeightFileError: if it is no HDF5 file, truncated, or not written by Keras.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"weight file {path} does not exist")
    try:
        if str(path).endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                opened = io.BytesIO(archive.read("model.weights.h5"))
        else:
            opened = path
        with h5py.File(opened) as file:
            if "layers" in file and "layer_names" not in file.attrs:
                return keras_archive.layers(file)
            # A whole model has its weights in a group.
            return _legacy(file["model_weights"] if "model_weights" in file else file)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise WeightFileError(
            f"{path} ({os.path.getsize(path):,} bytes) cannot be read as a Keras "
            f"weight file: {error}. If it was downloaded, it may be incomplete"
        ) from error


def _legacy(group) -> dict[str, list[np.ndarray]]:
    layers = {}
    for layer in _names(group, "layer_names"):
        arrays = [
            np.asarray(group[layer][name])
            for name in _names(group[layer], "weight_names")
        ]
        if arrays:
            layers[layer] = arrays
    return layers


def _names(group, attribute) -> list[str]:
    """An attribute of names; Keras splits one over 64 kB into attribute0, 1, ..."""
    if attribute in group.attrs:
        names = list(group.attrs[attribute])
    elif f"{attribute}0" in group.attrs:
        names = []
        for part in itertools.count():
            if f"{attribute}{part}" not in group.attrs:
                break
            names.extend(group.attrs[f"{attribute}{part}"])
    else:
        raise KeyError(f"{group.name} has no attribute {attribute!r}")
    return [name.decode() if isinstance(name, bytes) else name for name in names]


def _numbered(layers, kind: str) -> dict[str, list[np.ndarray]]:
    """Layers named `kind` or `kind`_N, in the order of N (no number is 0)."""
    found = {}
    for name in layers:
        if match := re.fullmatch(rf"{kind}(?:_(\d+))?", name):
            found[int(match[1] or 0)] = name
    return {found[number]: layers[found[number]] for number in sorted(found)}


def convert(model: str, layers: dict, path: str | os.PathLike = "the file") -> dict:
    """Variables of a network from the layers of a file, the head where it has one.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      layers: from `read`.
      path: for the error message.

    Returns:
      {'params': {'backbone': ..., 'head': ...}, 'batch_stats': ...}.

    Raises:
      WeightFileError: lists all that the file lacks or has too much.
    """
    if model == "inception_v3":
        return inception_v3(layers, path)
    return vgg(_VGGS[model], layers, path)


def _head(layers, errors) -> dict:
    """{'head': its parameters}, or {}; notes what is wrong in `errors`."""
    head = {}
    for name in layers.keys() & _HEAD.keys():
        if len(layers[name]) == 2:
            head[_HEAD[name]] = dict(zip(("kernel", "bias"), layers[name], strict=True))
        else:
            errors.append(
                f"{name} has {len(layers[name])} arrays, expected kernel and bias"
            )
    return {"head": head} if head else {}


def inception_v3(layers: dict[str, list[np.ndarray]], path="the file") -> dict:
    """As `convert`: 94 convolutions, numbered from any number on, and as many batch
    normalisations of beta, mean and variance, or of gamma and these."""
    convs, norms = _numbered(layers, "conv2d"), _numbered(layers, "batch_normalization")
    wanted, errors = len(INCEPTION_V3_CONVS), []
    for kind, found in (("convolutions", convs), ("batch normalisations", norms)):
        if len(found) != wanted:
            errors.append(f"it has {len(found)} {kind}, expected {wanted}")
    parts = ("scale", "bias", "mean", "var")
    parts = parts if any(len(arrays) == 4 for arrays in norms.values()) else parts[1:]
    errors += [
        f"{name} has {len(arrays)} arrays, expected {expected}"
        for expected, count, found in (
            ("kernel", 1, convs),
            ("[gamma,] beta, mean, variance", len(parts), norms),
        )
        for name, arrays in found.items()
        if len(arrays) != count
    ]
    other = [name for name in layers if name not in {**convs, **norms, **_HEAD}]
    if other:
        errors.append(f"layers that Inception-v3 does not have: {', '.join(other)}")
    head = _head(layers, errors)
    if errors:
        raise WeightFileError.of(path, "Keras' Inception-v3", errors)
    params, stats = {}, {}
    for name, (kernel,), arrays in zip(
        INCEPTION_V3_CONVS, convs.values(), norms.values(), strict=True
    ):
        norm = dict(zip(parts, arrays, strict=True))
        stats[name] = {"bn": {part: norm.pop(part) for part in ("mean", "var")}}
        params[name] = {"conv": {"kernel": kernel}, "bn": norm}
    return {"params": {"backbone": params, **head}, "batch_stats": {"backbone": stats}}


def vgg(
    convs: tuple[int, ...], layers: dict[str, list[np.ndarray]], path="the file"
) -> dict:
    """As `convert`: kernel and bias of each `block1_conv1`, ..., and of the dense
    layers `fc1`, `fc2`, `predictions` of a file with a head."""
    wanted = network.conv_names(convs)
    errors = [f"{name} is missing" for name in wanted if name not in layers]
    for name, arrays in layers.items():
        if name not in wanted and name not in _HEAD:
            errors.append(f"{name} is not expected")
        elif name in wanted and len(arrays) != 2:
            errors.append(f"{name} has {len(arrays)} arrays, expected kernel and bias")
    head = _head(layers, errors)
    if errors:
        holder = f"Keras' VGG of {len(wanted)} convolutions"
        raise WeightFileError.of(path, holder, errors)
    params = {
        name: dict(zip(("kernel", "bias"), layers[name], strict=True))
        for name in wanted
    }
    return {"params": {"backbone": params, **head}, "batch_stats": {}}


def layers(model: str, variables: dict) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The layers of Keras' network of these variables, the inverse of `convert`.

    Returns:
      [(layer, {name of the array: array})], in the order of Keras' `model.layers`, by
      which Keras loads a file.
    """
    params, found = variables["params"], []
    if model == "inception_v3":
        stats = variables["batch_stats"]["backbone"]
        for kind, number in keras_archive.inception_v3_layers():
            ours = INCEPTION_V3_CONVS[number]
            layer, bn = params["backbone"][ours], params["backbone"][ours]["bn"]
            arrays = {"kernel": layer["conv"]["kernel"]}
            if kind == "batch_normalization":
                arrays = {"gamma": bn["scale"]} if "scale" in bn else {}
                arrays["beta"] = bn["bias"]
                arrays["moving_mean"] = stats[ours]["bn"]["mean"]
                arrays["moving_variance"] = stats[ours]["bn"]["var"]
            found.append((f"{kind}_{number}" if number else kind, arrays))
    else:
        found = [
            (name, params["backbone"][name])
            for name in network.conv_names(_VGGS[model])
        ]
    head = params.get("head", {})
    found += [(keras, head[ours]) for keras, ours in _HEAD.items() if ours in head]
    return [
        (layer, {n: np.asarray(arrays[n]) for n in _order(arrays)})
        for layer, arrays in found
    ]


def _order(arrays):
    """Keras has the kernel before the bias; other arrays are in order."""
    return sorted(arrays, key=lambda name: name == "bias")


def write(path: str | os.PathLike, layers) -> None:
    """Writes `layers` as a weight file of Keras' HDF5 format."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name, _ in layers])
        file.attrs["backend"], file.attrs["keras_version"] = b"jax", b"2.0.0"
        for layer, arrays in layers:
            group = file.create_group(layer)
            names = [f"{layer}/{name}:0" for name in arrays]
            group.attrs["weight_names"] = np.array([n.encode() for n in names])
            for name, array in zip(names, arrays.values(), strict=True):
                group.create_dataset(name, data=array)
