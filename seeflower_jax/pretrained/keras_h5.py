"""Keras' HDF5 weight files -> variables of the networks here.

    variables = inception_v3(read(path))     # {'params': {'backbone': ...}, ...}
    variables = vgg((2, 2, 3, 3, 3), read(path))    # VGG16

Only arrays and names are read; nothing in a file is run.
"""

import itertools
import os
import re

import h5py
import numpy as np

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


class WeightFileError(ValueError):
    """A weight file is not what it should be."""


def read(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """The weighted layers of a Keras HDF5 file and their arrays, in the file's order.

    Raises:
      FileNotFoundError: if there is no such file.
      WeightFileError: if it is no HDF5 file, truncated, or not written by Keras.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"weight file {path} does not exist")
    try:
        with h5py.File(path) as file:
            layers = {}
            for layer in _names(file, "layer_names"):
                arrays = [
                    np.asarray(file[layer][name])
                    for name in _names(file[layer], "weight_names")
                ]
                if arrays:
                    layers[layer] = arrays
            return layers
    except (OSError, KeyError) as error:
        raise WeightFileError(
            f"{path} ({os.path.getsize(path):,} bytes) cannot be read as a Keras HDF5 "
            f"weight file: {error}. If it was downloaded, it may be incomplete"
        ) from error


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


def inception_v3(layers: dict[str, list[np.ndarray]], path: str = "the file") -> dict:
    """Variables of Inception-v3 without its head.

    Args:
      layers: from `read`; 94 convolutions, numbered from any number on, and as many
        batch normalisations of beta, mean and variance.
      path: for the error message.

    Returns:
      {'params': {'backbone': ...}, 'batch_stats': {'backbone': ...}}.

    Raises:
      WeightFileError: lists all that the file lacks or has too much.
    """
    convs, norms = _numbered(layers, "conv2d"), _numbered(layers, "batch_normalization")
    wanted, errors = len(INCEPTION_V3_CONVS), []
    for kind, found in (("convolutions", convs), ("batch normalisations", norms)):
        if len(found) != wanted:
            errors.append(f"it has {len(found)} {kind}, expected {wanted}")
    for kind, found, parts in (
        ("kernel", convs, 1),
        ("beta, mean, variance", norms, 3),
    ):
        for name, arrays in found.items():
            if len(arrays) != parts:
                errors.append(f"{name} has {len(arrays)} arrays, expected {kind}")
    other = [name for name in layers if name not in convs | norms]
    if other:
        errors.append(f"layers that Inception-v3 does not have: {', '.join(other)}")
    if errors:
        raise WeightFileError(
            f"{path} does not hold Keras' Inception-v3:\n  " + "\n  ".join(errors)
        )
    params, stats = {}, {}
    for name, (kernel,), (beta, mean, variance) in zip(
        INCEPTION_V3_CONVS, convs.values(), norms.values(), strict=True
    ):
        params[name] = {"conv": {"kernel": kernel}, "bn": {"bias": beta}}
        stats[name] = {"bn": {"mean": mean, "var": variance}}
    return {"params": {"backbone": params}, "batch_stats": {"backbone": stats}}


def vgg(
    convs: tuple[int, ...],
    layers: dict[str, list[np.ndarray]],
    path: str = "the file",
) -> dict:
    """Variables of a VGG without its head.

    Args:
      convs: number of convolutions in each block.
      layers: from `read`; kernel and bias of each `block1_conv1`, .... The dense layers
        `fc1`, `fc2`, `predictions` of a file with ImageNet's head are left out.
      path: for the error message.

    Returns:
      {'params': {'backbone': ...}, 'batch_stats': {}}.

    Raises:
      WeightFileError: lists all that the file lacks or has too much.
    """
    wanted = [
        f"block{block}_conv{number}"
        for block, count in enumerate(convs, start=1)
        for number in range(1, count + 1)
    ]
    found = {k: v for k, v in layers.items() if k not in ("fc1", "fc2", "predictions")}
    errors = [f"{name} is missing" for name in wanted if name not in found]
    errors += [
        f"{name} has {len(arrays)} arrays, expected kernel and bias"
        if name in wanted
        else f"{name} is not expected"
        for name, arrays in found.items()
        if name not in wanted or len(arrays) != 2
    ]
    if errors:
        raise WeightFileError(
            f"{path} does not hold Keras' VGG of {len(wanted)} convolutions:\n  "
            + "\n  ".join(errors)
        )
    params = {
        name: dict(zip(("kernel", "bias"), found[name], strict=True)) for name in wanted
    }
    return {"params": {"backbone": params}, "batch_stats": {}}
