"""Keras' weight files -> variables of the networks of this package, and back.

    variables = convert("vgg16", read(path), path)
    write(path, to_layers("vgg16", variables))

`read` takes the HDF5 files of Keras 1 and 2, weights alone or whole models, and both
archives of Keras 3, `.weights.h5` and `.keras`. It reads only arrays and names, and
runs no code from a file.
"""

import io
import itertools
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable
from typing import TypeAlias

import h5py
import numpy as np

from seeflower_jax.models import vgg
from seeflower_jax.pretrained import content, keras_archive
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.hdf5 import Hdf5
from seeflower_jax.pretrained.types import Variables

# {layer name: its arrays in Keras' order}, in the order of the file.
Layers: TypeAlias = dict[str, list[np.ndarray]]
# [(layer name, {array name: array})], in the order of Keras' `model.layers`.
NamedLayers: TypeAlias = list[tuple[str, dict[str, np.ndarray]]]

_ROOT_CONVS = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
)
# The convolutions of each block in the order in which Keras creates them. The numbers
# in the layers' names have the same order. The layers of a file have another order.
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


# {Keras' name of a dense layer: its name in this package}.
_HEAD = {"fc1": "fc1", "fc2": "fc2", "predictions": "logits"}
_VGGS = {"vgg16": vgg.VGG16, "vgg19": vgg.VGG19}


def read(path: str | os.PathLike) -> Layers:
    """Return the arrays of each layer with weights, in the order of a Keras file.

    The layers of a network inside another network, such as the base of a Sequential
    model, are returned like all others.

    Raises:
      OSError: if the file does not exist or cannot be opened.
      WeightFileError: if the file is not HDF5, is truncated, is not from Keras, refers
        to other files, or declares far more content than it has.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"weight file {path} does not exist")
    content.check_kind(path, [content.HDF5, content.KERAS])
    try:
        opened: str | os.PathLike | io.BytesIO = path
        if not content.is_hdf5(path) and zipfile.is_zipfile(path):
            content.check_zip_size(path)
            with zipfile.ZipFile(path) as archive:
                opened = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(opened, "r") as file:
            root = Hdf5(file, path)
            if "layers" in root.names and "layer_names" not in root.attributes:
                return keras_archive.read_layers(root)
            # A file of a whole model has its weights in a group.
            whole = "model_weights" in root.names
            return _read_legacy(root.group("model_weights") if whole else root)
    except WeightFileError:
        raise
    except Exception as error:  # HDF5 and zip raise errors of many types.
        content.raise_unreadable(path, "Keras weight", error)


def _read_legacy(group: Hdf5) -> Layers:
    """Read the layers of a file of Keras 1 or 2.

    A network inside another network is one layer of the file. The names of its weights
    start with the names of its layers.
    """
    layers: Layers = {}
    for layer in _names(group, "layer_names"):
        child = group.group(layer)
        names = _names(child, "weight_names")
        parents = {name.rpartition("/")[0] for name in names}
        for name in names:
            inner = name.rpartition("/")[0].rpartition("/")[2]
            key = inner if len(parents) > 1 else layer
            layers.setdefault(key, []).append(child.array(name))
    return layers


def _names(group: Hdf5, attribute: str) -> list[str]:
    """Return the names in an attribute.

    Keras splits an attribute of more than 64 kB into attribute0, attribute1, ...
    """
    if attribute in group.attributes:
        names = list(group.attributes[attribute])
    elif f"{attribute}0" in group.attributes:
        names = []
        for part in itertools.count():
            if f"{attribute}{part}" not in group.attributes:
                break
            names.extend(group.attributes[f"{attribute}{part}"])
    else:
        raise KeyError(f"it has no attribute {attribute!r}")
    return [name.decode() if isinstance(name, bytes) else name for name in names]


def convert(
    model: str, layers: Layers, path: str | os.PathLike = "the file"
) -> Variables:
    """Convert the layers of a file to the variables of a network.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      layers: the layers from `read`.
      path: the weight file, for the error message.

    Returns:
      {'params': {'backbone': ..., 'head': ...}, 'batch_stats': ...}; 'head' is absent
      if the file has no dense layers. If the head is not Keras' head, its layers have
      their names of the file in 'head'.

    Raises:
      WeightFileError: if layers are missing or unexpected; the message lists all.
    """
    if model == "inception_v3":
        return convert_inception_v3(layers, path)
    return convert_vgg(_VGGS[model], layers, path)


def _convert_head(layers: Layers, others: Iterable[str]) -> Variables:
    """Return {'head': parameters}, or {} without layers above the backbone.

    Args:
      layers: all layers of the file.
      others: the names of the layers that are not of the backbone.
    """
    head = {}
    for name in others:
        if name in _HEAD and len(layers[name]) == 2:
            head[_HEAD[name]] = dict(zip(("kernel", "bias"), layers[name], strict=True))
        else:
            head[name] = {str(i): array for i, array in enumerate(layers[name])}
    return {"head": head} if head else {}


def _numbered(layers: Layers, kind: str) -> Layers:
    """Return the layers named `kind` or `kind`_N, sorted by N (no number is 0)."""
    names = {}
    for name in layers:
        if match := re.fullmatch(rf"{kind}(?:_(\d+))?", name):
            names[int(match[1] or 0)] = name
    return {names[number]: layers[names[number]] for number in sorted(names)}


def convert_inception_v3(
    layers: Layers, path: str | os.PathLike = "the file"
) -> Variables:
    """Convert the layers of Inception-v3, see `convert`.

    A file has 94 convolutions and 94 batch normalisations. Their numbers may start with
    any number. Each batch normalisation has beta, mean and variance, or gamma, beta,
    mean and variance.
    """
    convs, norms = _numbered(layers, "conv2d"), _numbered(layers, "batch_normalization")
    # Layers of the head are made later and have higher numbers.
    norms = dict(itertools.islice(norms.items(), len(INCEPTION_V3_CONVS)))
    parts = ["scale", "bias", "mean", "var"]
    if all(len(arrays) != 4 for arrays in norms.values()):
        parts.remove("scale")
    others = [name for name in layers if name not in {**convs, **norms}]
    if errors := _inception_v3_defects(convs, norms, len(parts)):
        errors += [f"{name} is not expected" for name in others if name not in _HEAD]
        raise WeightFileError.of(path, "Keras' Inception-v3", errors)
    head = _convert_head(layers, others)
    params, stats = {}, {}
    for name, (kernel,), arrays in zip(
        INCEPTION_V3_CONVS, convs.values(), norms.values(), strict=True
    ):
        norm = dict(zip(parts, arrays, strict=True))
        stats[name] = {"bn": {part: norm.pop(part) for part in ("mean", "var")}}
        params[name] = {"conv": {"kernel": kernel}, "bn": norm}
    return {"params": {"backbone": params, **head}, "batch_stats": {"backbone": stats}}


def _inception_v3_defects(
    convs: Layers, norms: Layers, arrays_per_norm: int
) -> list[str]:
    """Return what is wrong with the number and the arrays of Inception-v3's layers."""
    expected = len(INCEPTION_V3_CONVS)
    errors = [
        f"it has {len(numbered)} {kind}, expected {expected}"
        for kind, numbered in (
            ("convolutions", convs),
            ("batch normalisations", norms),
        )
        if len(numbered) != expected
    ]
    return errors + [
        f"{name} has {len(arrays)} arrays, expected {description}"
        for description, count, numbered in (
            ("kernel", 1, convs),
            ("[gamma,] beta, mean, variance", arrays_per_norm, norms),
        )
        for name, arrays in numbered.items()
        if len(arrays) != count
    ]


def convert_vgg(
    convs: tuple[int, ...], layers: Layers, path: str | os.PathLike = "the file"
) -> Variables:
    """Convert the layers of a VGG, see `convert`.

    A file has kernel and bias of each `block1_conv1`, ..., and of the dense layers
    `fc1`, `fc2` and `predictions` if it has a head.

    Args:
      convs: the number of convolutions of each block.
      layers, path: as in `convert`.
    """
    conv_names = vgg.conv_names(convs)
    others = [name for name in layers if name not in conv_names]
    errors = [f"{name} is missing" for name in conv_names if name not in layers]
    errors += [
        f"{name} has {len(layers[name])} arrays, expected kernel and bias"
        for name in conv_names
        if name in layers and len(layers[name]) != 2
    ]
    if errors or any(re.match(r"block\d_conv\d", name) for name in others):
        errors += [f"{name} is not expected" for name in others if name not in _HEAD]
        expected = f"Keras' VGG of {len(conv_names)} convolutions"
        raise WeightFileError.of(path, expected, errors)
    head = _convert_head(layers, others)
    params = {
        name: dict(zip(("kernel", "bias"), layers[name], strict=True))
        for name in conv_names
    }
    return {"params": {"backbone": params, **head}, "batch_stats": {}}


def to_layers(model: str, variables: Variables) -> NamedLayers:
    """Convert variables to the layers of Keras' network, the inverse of `convert`.

    Returns:
      [(layer name, {array name: array})], in the order of Keras' `model.layers`. Keras
      loads a file by this order.
    """
    params = variables["params"]
    if model == "inception_v3":
        layers = _inception_v3_layers(variables)
    else:
        names = vgg.conv_names(_VGGS[model])
        layers = [(name, params["backbone"][name]) for name in names]
    head = params.get("head", {})
    layers += [(keras, head[name]) for keras, name in _HEAD.items() if name in head]
    return [
        (layer, {name: np.asarray(arrays[name]) for name in _kernel_first(arrays)})
        for layer, arrays in layers
    ]


def _inception_v3_layers(variables: Variables) -> NamedLayers:
    params = variables["params"]["backbone"]
    stats = variables["batch_stats"]["backbone"]
    layers = []
    for kind, number in keras_archive.inception_v3_layers():
        name = INCEPTION_V3_CONVS[number]
        arrays = {"kernel": params[name]["conv"]["kernel"]}
        if kind == "batch_normalization":
            norm = params[name]["bn"]
            arrays = {"gamma": norm["scale"]} if "scale" in norm else {}
            arrays["beta"] = norm["bias"]
            arrays["moving_mean"] = stats[name]["bn"]["mean"]
            arrays["moving_variance"] = stats[name]["bn"]["var"]
        layers.append((f"{kind}_{number}" if number else kind, arrays))
    return layers


def _kernel_first(names: Iterable[str]) -> list[str]:
    """Sort the kernel before the bias, as Keras does; keep the order of others."""
    return sorted(names, key=lambda name: name == "bias")


def write(path: str | os.PathLike, layers: NamedLayers) -> None:
    """Write layers as a weight file in Keras' HDF5 format."""
    # HDF5 prints tracebacks on a full disk, so it writes to memory.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name, _ in layers])
        file.attrs["backend"], file.attrs["keras_version"] = b"jax", b"2.0.0"
        for layer, arrays in layers:
            group = file.create_group(layer)
            names = [f"{layer}/{name}:0" for name in arrays]
            group.attrs["weight_names"] = np.array([n.encode() for n in names])
            for name, array in zip(names, arrays.values(), strict=True):
                group.create_dataset(name, data=array)
    pathlib.Path(path).write_bytes(content.getbuffer())
