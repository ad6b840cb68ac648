"""The layers of Keras 3's weight files, `.weights.h5` and the one within `.keras`.

    with h5py.File(path) as file:
        arrays = layers(file)     # {'conv2d_5': [kernel], ...}, by the layers' names

Such a file has a group for each layer, named by its class and a count in the order of
`model.layers`; that order is not the one in which the layers' names are numbered. Newer
files have the names too, as attributes; for others they follow from the order.
"""

import re

import numpy as np

from seeflower_jax.models import vgg

# Inception-v3's blocks in the order of `model.layers`, which goes by depth: c is a
# convolution, b a batch normalisation, with its place in the order of creation.
_STEM = "c0 b0 c1 b1 c2 b2 c3 b3 c4 b4"
_A = "c3 b3 c1 c4 b1 b4 c0 c2 c5 c6 b0 b2 b5 b6"
_B = "c1 b1 c2 b2 c0 c3 b0 b3"
_C = "c4 b4 c5 b5 c1 c6 b1 b6 c2 c7 b2 b7 c0 c3 c8 c9 b0 b3 b8 b9"
_D = "c2 b2 c3 b3 c0 c4 b0 b4 c1 c5 b1 b5"
_E = "c4 b4 c1 c5 b1 b5 c2 c3 c6 c7 c0 b2 b3 b6 b7 c8 b0 b8"
_KINDS = {"c": "conv2d", "b": "batch_normalization"}


def inception_v3_layers() -> list[tuple[str, int]]:
    """(kind, number in the name) of each layer with weights, in Keras' order."""
    order, first = [], 0
    for block in (_STEM, _A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E):
        places = block.split()
        order += [(_KINDS[place[0]], first + int(place[1:])) for place in places]
        first += len(places) // 2
    return order


def inception_v3_order() -> list[int]:
    """The number in the name of each convolution of Keras' network, by its layers."""
    return [number for kind, number in inception_v3_layers() if kind == "conv2d"]


def layers(file) -> dict[str, list[np.ndarray]]:
    """The weighted layers of an open file and their arrays.

    Raises:
      KeyError: if the file is none of Keras 3.
    """
    found, named = {}, True
    for group in sorted(file["layers"], key=_by_count):
        variables = file["layers"][group]["vars"]
        if len(variables):
            name = variables.attrs.get("name")
            named &= name is not None
            found[group] = name, [variables[str(i)][()] for i in range(len(variables))]
    if named:
        return dict(found.values())
    names = _names(found)
    return {names.get(group, group): arrays for group, (_, arrays) in found.items()}


def _by_count(group: str) -> tuple[str, int]:
    kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", group).groups()
    return kind, int(number or 0)


def _names(groups) -> dict[str, str]:
    """{group: name of the layer} for the networks that the number of layers tells."""
    convs = [group for group in groups if _by_count(group)[0] == "conv2d"]
    dense = [group for group in groups if _by_count(group)[0] == "dense"]
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
