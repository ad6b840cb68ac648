"""torchvision's state dicts -> variables of the networks of this package, and back.

    state, metadata = torch_files.read(path)           # {'features.0.weight': ...}, {}
    variables = convert("vgg16", state, path)
    state = state_dict("vgg16", variables)

`RULES` holds the preprocessing and the other fields of a ModelSpec that the weights
expect.
"""

import logging
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Float

from seeflower_jax.models import vgg
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.keras_h5 import INCEPTION_V3_CONVS
from seeflower_jax.pretrained.torch_files import StateDict
from seeflower_jax.pretrained.types import Variables

# The fields of a ModelSpec that differ from the default of the network. torchvision's
# Inception-v3 converts ImageNet-normalised input to [-1, 1] (`transform_input`), so its
# weights expect [-1, 1].
RULES: dict[str, dict[str, Any]] = {
    "inception_v3": {
        "preprocess": "tf",
        "epsilon": 1e-3,
        "batch_norm_scale": True,
        "count_include_pad": True,
    },
    "vgg16": {"preprocess": "torch"},
    "vgg19": {"preprocess": "torch"},
}
# The tensors that the networks of this package do not have: the auxiliary classifier,
# which only training uses, and counters of training steps.
IGNORED = (r"AuxLogits\..*", r".*\.num_batches_tracked")
# The names of all tensors below the classifier start with one of these.
_BACKBONE = ("features.", "Conv2d_", "Mixed_")
# In VGGs converted from Caffe, the numbers also count the dropout before a dense layer.
_CAFFE_HEAD = {"classifier.1.": "classifier.0.", "classifier.4.": "classifier.3."}

_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def torch_names(model: str) -> dict[str, str]:
    """Return {name of a variable in this package: name in torchvision's state dict}."""
    if model == "inception_v3":
        return _inception_v3_names()
    convs = {"vgg16": vgg.VGG16, "vgg19": vgg.VGG19}[model]
    # In `features`, each convolution has a ReLU after it, and each block ends with a
    # pooling layer.
    places: list[int] = []
    place = 0
    for count in convs:
        places += range(place, place + 2 * count, 2)
        place += 2 * count + 1
    layers = {
        f"backbone/{name}": f"features.{place}"
        for name, place in zip(vgg.conv_names(convs), places, strict=True)
    }
    layers |= {
        f"head/{name}": f"classifier.{place}"
        for name, place in (("fc1", 0), ("fc2", 3), ("logits", 6))
    }
    return _kernels_and_biases(layers)


def _inception_v3_names() -> dict[str, str]:
    names = {}
    for layer in INCEPTION_V3_CONVS:
        torch_layer = re.sub(
            r"mixed(\d+)_", lambda m: f"Mixed_{_BLOCKS[int(m[1])]}.", layer
        )
        params, stats = f"params/backbone/{layer}", f"batch_stats/backbone/{layer}"
        names[f"{params}/conv/kernel"] = f"{torch_layer}.conv.weight"
        names[f"{params}/bn/scale"] = f"{torch_layer}.bn.weight"
        names[f"{params}/bn/bias"] = f"{torch_layer}.bn.bias"
        names[f"{stats}/bn/mean"] = f"{torch_layer}.bn.running_mean"
        names[f"{stats}/bn/var"] = f"{torch_layer}.bn.running_var"
    return names | _kernels_and_biases({"head/logits": "fc"})


def _kernels_and_biases(layers: Mapping[str, str]) -> dict[str, str]:
    names = {}
    for layer, torch_layer in layers.items():
        names[f"params/{layer}/kernel"] = f"{torch_layer}.weight"
        names[f"params/{layer}/bias"] = f"{torch_layer}.bias"
    return names


def convert(
    model: str, state: StateDict, path: str | os.PathLike = "the file"
) -> Variables:
    """Convert torchvision's state dict to the variables of a network.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      state: the arrays from `read`.
      path: the weight file, for the error message.

    Returns:
      {'params': {'backbone': ..., 'head': ...}, 'batch_stats': ...}; 'head' is absent
      if the file has no dense layers. If the head is not torchvision's head, its
      tensors have their names of the file in 'head'.

    Raises:
      WeightFileError: if tensors are missing or unexpected; the message lists all.
    """
    state = _without_prefix(model, state, path)
    names = {torch_name: name for name, torch_name in torch_names(model).items()}
    used = [n for n in state if not any(re.fullmatch(rule, n) for rule in IGNORED)]
    missing = [
        torch_name
        for torch_name, name in names.items()
        if torch_name not in state and not name.startswith("params/head/")
    ]
    if model == "inception_v3" and not any(n.endswith(".bn.weight") for n in state):
        missing = [name for name in missing if not name.endswith(".bn.weight")]
    others = [name for name in used if name not in names]
    errors = [f"{name} is missing" for name in missing]
    if missing or any(name.startswith(_BACKBONE) for name in others):
        errors += [f"{name} {state[name].shape} is not expected" for name in others]
    if errors:
        raise WeightFileError.of(path, f"torchvision's {model}", errors)
    flat = {}
    for name in used:
        array = state[name]
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # OIHW to HWIO
        flat_name = names.get(name, f"params/head/{name}")
        flat[flat_name] = array.T if array.ndim == 2 else array
    if model != "inception_v3":
        flat = _reorder_flattened(flat, channels_first=True)
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat, sep="/")}


def _without_prefix(model: str, state: StateDict, path: str | os.PathLike) -> StateDict:
    """Return a state dict with torchvision's names.

    A network inside another module, such as DataParallel, has a prefix in all names.
    PyTorch's script for ImageNet wraps only the `features` of a VGG.
    """
    state = {
        name.replace("features.module.", "features."): value
        for name, value in state.items()
    }
    first = next(iter(torch_names(model).values()))
    prefixes = [name.removesuffix(first) for name in state if name.endswith(first)]
    prefixes = [prefix for prefix in prefixes if not prefix or prefix[-1] == "."]
    if len(prefixes) > 1:
        raise WeightFileError(
            f"{path} holds {len(prefixes)} networks, with the prefixes {prefixes}; "
            "save only one of them"
        )
    prefix = "".join(prefixes)
    if prefix:
        logging.info("%s: removed %r from the names of tensors", path, prefix)
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if "classifier.6.weight" in state and "classifier.0.weight" not in state:
        for caffe_name, name in _CAFFE_HEAD.items():
            state = {
                re.sub(f"^{re.escape(caffe_name)}", name, key): value
                for key, value in state.items()
            }
    return state


def state_dict(model: str, variables: Variables) -> StateDict:
    """Convert variables to torchvision's state dict, the inverse of `convert`.

    A batch normalisation without a scale gets a scale of ones.
    """
    flat = traverse_util.flatten_dict(variables, sep="/")
    flat = {name: np.asarray(value) for name, value in flat.items()}
    if model != "inception_v3":
        flat = _reorder_flattened(flat, channels_first=False)
    flat = {
        bias[: -len("bias")] + "scale": np.ones_like(flat[bias])
        for bias in flat
        if bias.endswith("/bn/bias")
    } | flat
    names, state = torch_names(model), {}
    for name, value in flat.items():
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)  # HWIO to OIHW
        state[names[name]] = np.ascontiguousarray(value.T if value.ndim == 2 else value)
    return state


def _reorder_flattened(flat: StateDict, channels_first: bool) -> StateDict:
    """Reorder the rows of a VGG's first dense kernel if it reads a flattened map.

    PyTorch flattens a map of the last block as channel, row, column; this package
    flattens it as row, column, channel.

    Args:
      flat: {name in this package: array}.
      channels_first: True converts from PyTorch's order to the order of this package,
        False converts back.
    """
    kernels = ("params/head/fc1/kernel", "params/head/logits/kernel")
    first_dense = next((name for name in kernels if name in flat), None)
    if first_dense is None or flat[first_dense].ndim != 2:
        return flat
    last_block = [n for n in flat if re.fullmatch(r"params/backbone/block5.*/bias", n)]
    channels, kernel = flat[max(last_block)].shape[0], flat[first_dense]
    side = _map_side(kernel, channels)
    if not side:
        return flat
    if channels_first:
        maps = kernel.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
    else:
        maps = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
    return {**flat, first_dense: maps.reshape(kernel.shape)}


def _map_side(kernel: Float[np.ndarray, "rows units"], channels: int) -> int:
    """Return the side of the map that flattens to `rows` entries; 0 if none does."""
    rows = kernel.shape[0]
    side = math.isqrt(rows // channels)
    return side if side * side * channels == rows else 0
