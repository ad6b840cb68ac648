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

# Inception-v3's blocks in the order of `model.layers`, by the place of each convolution
# in the order of creation.
_A = (3, 1, 4, 0, 2, 5, 6)
_B = (1, 2, 0, 3)
_C = (4, 5, 1, 6, 2, 7, 0, 3, 8, 9)
_D = (2, 3, 0, 4, 1, 5)
_E = (4, 1, 5, 2, 3, 6, 7, 0, 8)


def inception_v3_order() -> list[int]:
    """The number in the name of each convolution of Keras' network, by its layers."""
    order = [0, 1, 2, 3, 4]
    for block in (_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E):
        order += [len(order) + place for place in block]
    return order


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
