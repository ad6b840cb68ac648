"""Read the layers of Keras 3's weight files, `.weights.h5` and `.keras`.

    with h5py.File(path) as file:
        layers = read_layers(Hdf5(file))    # {'conv2d_5': [kernel], ...}, by layer name

Such a file has a group for each layer. The name of a group is the class of the layer
and a count in the order of `model.layers`. This order differs from the order of the
numbers in the layers' names. Newer files also store the names, as attributes. For older
files, this module derives the names from the order. A network inside another network,
as in `Sequential([VGG16(), Dense(4)])`, has its own groups, and its layers come first.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from seeflower_jax.models import vgg
from seeflower_jax.pretrained.hdf5 import Hdf5

# The blocks of Inception-v3 in the order of `model.layers`, which sorts layers by
# depth. c is a convolution, b a batch normalisation. The number is the position in the
# order in which Keras creates the layers of a block.
_STEM = "c0 b0 c1 b1 c2 b2 c3 b3 c4 b4"
_A = "c3 b3 c1 c4 b1 b4 c0 c2 c5 c6 b0 b2 b5 b6"
_B = "c1 b1 c2 b2 c0 c3 b0 b3"
_C = "c4 b4 c5 b5 c1 c6 b1 b6 c2 c7 b2 b7 c0 c3 c8 c9 b0 b3 b8 b9"
_D = "c2 b2 c3 b3 c0 c4 b0 b4 c1 c5 b1 b5"
_E = "c4 b4 c1 c5 b1 b5 c2 c3 c6 c7 c0 b2 b3 b6 b7 c8 b0 b8"
_KINDS = {"c": "conv2d", "b": "batch_normalization"}


def inception_v3_layers() -> list[tuple[str, int]]:
    """Return (kind, number in the name) of each layer with weights, in Keras' order."""
    order, first = [], 0
    for block in (_STEM, _A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E):
        places = block.split()
        order += [(_KINDS[place[0]], first + int(place[1:])) for place in places]
        first += len(places) // 2
    return order


def inception_v3_order() -> list[int]:
    """Return the number in the name of each convolution, in Keras' order of layers."""
    return [number for kind, number in inception_v3_layers() if kind == "conv2d"]


def read_layers(file: Hdf5) -> dict[str, list[np.ndarray]]:
    """Return the arrays of each layer with weights, by layer name.

    Raises:
      KeyError: if Keras 3 did not write the file.
      WeightFileError: as for `Hdf5.array`.
    """
    nested: dict[str, list[np.ndarray]] = {}
    names: dict[str, Any] = {}
    arrays: dict[str, list[np.ndarray]] = {}
    layers = file.group("layers")
    for group in sorted(layers.names, key=_kind_and_count):
        layer = layers.group(group)
        if "layers" in layer.names:
            nested |= read_layers(layer)
        variables = layer.group("vars") if "vars" in layer.names else None
        if variables is not None and variables.names:
            names[group] = variables.attributes.get("name")
            arrays[group] = [
                variables.array(str(place)) for place in range(len(variables.names))
            ]
    if None in names.values():
        names = {group: group for group in arrays} | _names_by_order(arrays)
    return nested | {
        f"outer/{names[group]}" if names[group] in nested else names[group]: values
        for group, values in arrays.items()
    }


def _kind_and_count(group: str) -> tuple[str, int]:
    kind, _, count = group.rpartition("_")
    return (kind, int(count)) if kind and count.isdecimal() else (group, 0)


def _names_by_order(groups: Iterable[str]) -> dict[str, str]:
    """Return {group: layer name}; the number of layers identifies the network."""
    kinds = {group: _kind_and_count(group)[0] for group in groups}
    convs = [group for group, kind in kinds.items() if kind == "conv2d"]
    dense = [group for group, kind in kinds.items() if kind == "dense"]
    tops = ("fc1", "fc2", "predictions")
    names = dict(zip(dense, tops[len(tops) - len(dense) :], strict=False))
    order = inception_v3_order()
    if len(convs) == len(order):
        for kind in ("conv2d", "batch_normalization"):
            numbered = [kind] + [f"{kind}_{n}" for n in range(1, len(order))]
            names |= {numbered[i]: numbered[n] for i, n in enumerate(order)}
    for network in (vgg.VGG16, vgg.VGG19):
        if len(convs) == sum(network):
            names |= dict(zip(convs, vgg.conv_names(network), strict=True))
    return names
