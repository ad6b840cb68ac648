"""torchvision's weights, `.pth` or `.safetensors` -> variables here, and back.

    state, metadata = read("vgg16-397923af.pth")       # {'features.0.weight': ...}, {}
    variables = convert("vgg16", state, path)
    write("vgg16.safetensors", state_dict("vgg16", variables), {"spec": "{...}"})

A `.pth` file is a pickle. PyTorch's restricted unpickler reads it: the unpickler makes
tensors and containers and refuses everything else. A `.pth` file needs PyTorch, a
`.safetensors` file does not. `RULES` holds the preprocessing and the other fields of a
ModelSpec that the weights expect.
"""

import math
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jaxtyping import Float

from seeflower_jax.models import vgg
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.keras_h5 import INCEPTION_V3_CONVS
from seeflower_jax.pretrained.types import Variables

# {name of a tensor in torchvision: array}.
StateDict: TypeAlias = dict[str, np.ndarray]

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

_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def read(path: str | os.PathLike) -> tuple[StateDict, dict[str, str]]:
    """Return the arrays of a file by name, and the metadata of a safetensors file.

    Raises:
      ImportError: for a `.pth` file without PyTorch; says how to install it.
      WeightFileError: if the file is incomplete or of another format, or if reading it
        would run code.
    """
    if str(path).endswith(".safetensors"):
        return _read_safetensors(path)
    return _read_pickle(path), {}


def _read_safetensors(path: str | os.PathLike) -> tuple[StateDict, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, "safetensors", error) from error


def _read_pickle(path: str | os.PathLike) -> StateDict:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} cannot be read without PyTorch: pip install seeflower_jax[torch], "
            "or use a .safetensors file"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class|operand)|GLOBAL", str(error)):
            name = re.search(r"GLOBAL (\S+)", str(error))
            raise WeightFileError(
                f"{path} holds more than tensors ({name[1] if name else 'code'}) and "
                "is refused, because unpickling it may run code; expected a state dict "
                "that torch.save(model.state_dict(), path) writes"
            ) from error
        raise _unreadable(path, "PyTorch", error) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise _unreadable(path, "PyTorch", error) from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        content = list(state)[:5] if isinstance(state, dict) else type(state).__name__
        raise WeightFileError(f"{path} holds {content}, expected a dict of tensors")
    return {name: tensor.float().numpy() for name, tensor in state.items()}


def _unreadable(
    path: str | os.PathLike, kind: str, error: Exception
) -> WeightFileError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightFileError(
        f"{path} ({os.path.getsize(path):,} bytes) cannot be read as a {kind} file: "
        f"{reason}. A downloaded file may be incomplete: download it again"
    )


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
      if the file has no dense layers.

    Raises:
      WeightFileError: lists everything that is missing or not expected.
    """
    names = {torch_name: name for name, torch_name in torch_names(model).items()}
    used = [n for n in state if not any(re.fullmatch(rule, n) for rule in IGNORED)]
    missing = [
        torch_name
        for torch_name, name in names.items()
        if torch_name not in state and not name.startswith("params/head/")
    ]
    if model == "inception_v3" and not any(n.endswith(".bn.weight") for n in state):
        missing = [name for name in missing if not name.endswith(".bn.weight")]
    errors = [f"{name} is missing" for name in missing]
    errors += [
        f"{name} {state[name].shape} is not expected"
        for name in used
        if name not in names
    ]
    if errors:
        raise WeightFileError.of(path, f"torchvision's {model}", errors)
    flat = {}
    for name in used:
        array = state[name]
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # OIHW to HWIO
        flat[names[name]] = array.T if array.ndim == 2 else array
    if model != "inception_v3":
        flat = _reorder_flattened(flat, channels_first=True)
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat, sep="/")}


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
    """Reorder the rows of a VGG's first dense kernel if it is on a flattened map.

    PyTorch flattens a map of the last block as channel, row, column; this package
    flattens it as row, column, channel.

    Args:
      flat: {name in this package: array}.
      channels_first: True from PyTorch's order to the order of this package, False for
        the inverse.
    """
    kernels = ("params/head/fc1/kernel", "params/head/logits/kernel")
    first_dense = next((name for name in kernels if name in flat), None)
    if first_dense is None:
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
    """Return the side of the map whose flattening has `rows` entries, 0 if none has."""
    rows = kernel.shape[0]
    side = math.isqrt(rows // channels)
    return side if side * side * channels == rows else 0


def write(
    path: str | os.PathLike, state: StateDict, metadata: Mapping[str, str]
) -> None:
    """Write a state dict as a safetensors file."""
    safetensors.numpy.save_file(state, path, dict(metadata))
