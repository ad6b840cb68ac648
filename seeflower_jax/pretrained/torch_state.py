"""torchvision's weights, `.pth` or `.safetensors` -> variables here, and back.

    state = read("vgg16-397923af.pth")                 # {'features.0.weight': ...}
    variables = convert("vgg16", state, path)
    write("vgg16.safetensors", state_dict("vgg16", variables), {"epsilon": "0.001"})

A `.pth` file is a pickle. It is read by PyTorch's restricted unpickler, which makes
tensors and containers and refuses anything else; it needs PyTorch, `.safetensors` does
not. What the weights expect of the network besides is `RULES`.
"""

import math
import os
import pickle
import re

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from seeflower_jax.models import vgg
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.keras_h5 import INCEPTION_V3_CONVS

# Changes of a ModelSpec. torchvision's Inception-v3 converts ImageNet-normalised input
# to [-1, 1] (`transform_input`), so that [-1, 1] is what its weights expect.
RULES = {
    "inception_v3": {
        "preprocess": "tf",
        "epsilon": 1e-3,
        "batch_norm_scale": True,
        "count_include_pad": True,
    },
    "vgg16": {"preprocess": "torch"},
    "vgg19": {"preprocess": "torch"},
}
# What the networks here leave out: the auxiliary classifier, which is for training
# alone, and counters of training steps.
IGNORED = (r"AuxLogits\..*", r".*\.num_batches_tracked")

_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by their names, and the metadata of a safetensors file.

    Raises:
      ImportError: for a `.pth` file without PyTorch; says how to install it.
      WeightFileError: if it is incomplete, of another format, or if reading it would
        run code.
    """
    if str(path).endswith(".safetensors"):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return arrays, file.metadata() or {}
        except (safetensors.SafetensorError, OSError) as error:
            raise _unreadable(path, "safetensors", error) from error
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} needs PyTorch to be read: pip install seeflower_jax[torch]; "
            "a .safetensors file does not"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class|operand)|GLOBAL", str(error)):
            what = re.search(r"GLOBAL (\S+)", str(error))
            raise WeightFileError(
                f"{path} holds more than tensors ({what[1] if what else 'code'}) and "
                "is refused, because to unpickle it may run code; expected a state "
                "dict, as torch.save(model.state_dict(), path) writes"
            ) from error
        raise _unreadable(path, "PyTorch", error) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise _unreadable(path, "PyTorch", error) from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        holds = list(state)[:5] if isinstance(state, dict) else type(state).__name__
        raise WeightFileError(f"{path} holds {holds}, expected a dict of tensors")
    return {name: tensor.float().numpy() for name, tensor in state.items()}, {}


def _unreadable(path, kind, error) -> WeightFileError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightFileError(
        f"{path} ({os.path.getsize(path):,} bytes) cannot be read as a {kind} file: "
        f"{reason}. If it was downloaded, it may be incomplete"
    )


def names(model: str) -> dict[str, str]:
    """{name of a variable here: name in torchvision's state dict}."""
    table = {}
    if model == "inception_v3":
        for ours in INCEPTION_V3_CONVS:
            theirs = re.sub(
                r"mixed(\d+)_", lambda m: f"Mixed_{_BLOCKS[int(m[1])]}.", ours
            )
            table[f"params/backbone/{ours}/conv/kernel"] = f"{theirs}.conv.weight"
            table[f"params/backbone/{ours}/bn/scale"] = f"{theirs}.bn.weight"
            table[f"params/backbone/{ours}/bn/bias"] = f"{theirs}.bn.bias"
            table[f"batch_stats/backbone/{ours}/bn/mean"] = f"{theirs}.bn.running_mean"
            table[f"batch_stats/backbone/{ours}/bn/var"] = f"{theirs}.bn.running_var"
        layers = {"head/logits": "fc"}
    else:
        convs = {"vgg16": vgg.VGG16, "vgg19": vgg.VGG19}[model]
        # A block is its convolutions, each with its ReLU, and a pooling.
        places, place = [], 0
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
    for ours, theirs in layers.items():
        table[f"params/{ours}/kernel"] = f"{theirs}.weight"
        table[f"params/{ours}/bias"] = f"{theirs}.bias"
    return table


def _flattened(rows: int, channels: int) -> int:
    """The side of the map whose flattening has `rows` entries; 0 if it is no square."""
    side = math.isqrt(rows // channels)
    return side if side * side * channels == rows else 0


def _channels(flat: dict) -> int:
    """Channels of the last convolution of a VGG."""
    name = max(n for n in flat if re.fullmatch(r"params/backbone/block5.*/bias", n))
    return flat[name].shape[0]


def _first_dense(flat: dict) -> str | None:
    """The dense kernel on the flattened map."""
    kernels = ("params/head/fc1/kernel", "params/head/logits/kernel")
    return next((name for name in kernels if name in flat), None)


def convert(model: str, state: dict, path: str | os.PathLike = "the file") -> dict:
    """Variables of a network from torchvision's state dict, the head where it has one.

    Args:
      model: 'inception_v3', 'vgg16' or 'vgg19'.
      state: arrays from `read`.
      path: for the error message.

    Raises:
      WeightFileError: lists all that the file lacks or has too much.
    """
    table = names(model)
    inverse = {theirs: ours for ours, theirs in table.items()}
    used = [n for n in state if not any(re.fullmatch(rule, n) for rule in IGNORED)]
    missing = [
        theirs
        for ours, theirs in table.items()
        if theirs not in state and not ours.startswith("params/head/")
    ]
    if model == "inception_v3" and not any(n.endswith(".bn.weight") for n in state):
        missing = [name for name in missing if not name.endswith(".bn.weight")]
    errors = [f"{name} is missing" for name in missing]
    errors += [
        f"{name} {state[name].shape} is not expected"
        for name in used
        if name not in inverse
    ]
    if errors:
        raise WeightFileError.of(path, f"torchvision's {model}", errors)
    flat = {}
    for name in used:
        array = state[name]
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # OIHW to HWIO
        flat[inverse[name]] = array.T if array.ndim == 2 else array
    first = _first_dense(flat)
    if first and model != "inception_v3":
        channels, kernel = _channels(flat), flat[first]
        if side := _flattened(kernel.shape[0], channels):
            maps = kernel.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
            flat[first] = maps.reshape(kernel.shape)
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat, sep="/")}


def state_dict(model: str, variables: dict) -> dict[str, np.ndarray]:
    """torchvision's state dict of variables, the inverse of `convert`.

    A batch normalisation without scale gets one of ones.
    """
    flat = traverse_util.flatten_dict(variables, sep="/")
    flat = {name: np.asarray(value) for name, value in flat.items()}
    first = _first_dense(flat)
    if first and model != "inception_v3":
        channels, kernel = _channels(flat), flat[first]
        if side := _flattened(kernel.shape[0], channels):
            maps = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
            flat[first] = maps.reshape(kernel.shape)
    flat = {
        bias[: -len("bias")] + "scale": np.ones_like(flat[bias])
        for bias in flat
        if bias.endswith("/bn/bias")
    } | flat
    table, state = names(model), {}
    for name, value in flat.items():
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        state[table[name]] = np.ascontiguousarray(value.T if value.ndim == 2 else value)
    return state


def write(path: str | os.PathLike, state: dict, metadata: dict[str, str]) -> None:
    """Writes a state dict as safetensors."""
    safetensors.numpy.save_file(state, path, metadata)
