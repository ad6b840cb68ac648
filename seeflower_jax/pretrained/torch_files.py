"""Files of PyTorch, `.pth` or `.safetensors` -> arrays by name, and back.

    state, metadata = read("vgg16-397923af.pth")       # {'features.0.weight': ...}, {}
    write("vgg16.safetensors", state, {"spec": "{...}"})

A `.pth` file is a pickle. PyTorch's restricted unpickler reads it. The unpickler makes
tensors and containers and refuses everything else. A `.pth` file needs PyTorch, a
`.safetensors` file does not.
"""

import logging
import os
import pickle
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy

from seeflower_jax.pretrained import content
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.records import files

if TYPE_CHECKING:
    import torch

# {name of a tensor: array}.
StateDict: TypeAlias = dict[str, np.ndarray]

# The keys under which training code saves the state dict of its network, the most
# common first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")


def read(path: str | os.PathLike) -> tuple[StateDict, dict[str, str]]:
    """Return the arrays of a file by name, and the metadata of a safetensors file.

    A state dict in a training checkpoint is unwrapped. Arrays keep their precision. A
    type that NumPy lacks becomes float32.

    Raises:
      ImportError: for a `.pth` file without PyTorch; the message says how to install
        it.
      OSError: if the file cannot be opened.
      WeightFileError: if the file is incomplete or of another format, or if reading it
        would run code.
    """
    if str(path).lower().endswith(".safetensors"):
        content.check_kind(path, [content.SAFETENSORS])
        return _read_safetensors(path)
    content.check_kind(path, [content.PYTORCH])
    return _read_pickle(path), {}


def _read_safetensors(path: str | os.PathLike) -> tuple[StateDict, dict[str, str]]:
    arrays, types = {}, {}
    try:
        # The library checks all declared sizes against the file.
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                types[name] = file.get_slice(name).get_dtype()
                if not types[name].startswith(("BF", "F8", "F4")):
                    arrays[name] = file.get_tensor(name)
            metadata = file.metadata() or {}
        bfloat16 = [name for name, dtype in types.items() if dtype == "BF16"]
        if bfloat16:
            with safetensors.safe_open(path, framework="flax") as file:
                for name in bfloat16:
                    arrays[name] = np.asarray(file.get_tensor(name), np.float32)
    except Exception as error:
        content.raise_unreadable(path, "safetensors", error)
    errors = [
        f"{name} has type {dtype}"
        for name, dtype in types.items()
        if name not in arrays
    ]
    if errors:
        raise WeightFileError.of(path, "arrays of 16, 32 or 64 bits", errors)
    return arrays, metadata


def _read_pickle(path: str | os.PathLike) -> StateDict:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} cannot be read without PyTorch: pip install seeflower_jax[torch], "
            "or use a .safetensors file"
        ) from error
    try:
        content.check_zip_size(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except WeightFileError:
        raise
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class|operand)|GLOBAL", str(error)):
            name = re.search(r"GLOBAL (\S+)", str(error))
            raise WeightFileError(
                f"{path} holds more than tensors ({name[1] if name else 'code'}) and "
                "is refused, because unpickling it may run code; expected a state dict "
                "that torch.save(model.state_dict(), path) writes"
            ) from error
        content.raise_unreadable(path, "PyTorch", error)
    except Exception as error:
        content.raise_unreadable(path, "PyTorch", error)
    return _arrays(path, _unwrap(path, loaded))


def _unwrap(path: str | os.PathLike, loaded: Any) -> "dict[str, torch.Tensor]":
    """Return the tensors of a state dict, which may be inside a checkpoint."""
    import torch

    if not isinstance(loaded, dict):
        raise WeightFileError(
            f"{path} holds {type(loaded).__name__}, expected a dict of tensors"
        )
    # A checkpoint may also hold tensors, such as its best accuracy.
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), dict):
            logging.info("%s: loading %r of a checkpoint", path, key)
            return _unwrap(f"{path}[{key!r}]", loaded[key])
    tensors = {str(k): v for k, v in loaded.items() if torch.is_tensor(v)}
    if not tensors:
        raise WeightFileError(
            f"{path} holds {list(loaded)[:5]}, expected a dict of tensors, or a "
            f"checkpoint with one of {', '.join(_WRAPPERS)}; save the state dict alone"
        )
    if others := [str(key) for key in loaded if str(key) not in tensors]:
        logging.info("%s: left out %s, which are no tensors", path, others[:5])
    return tensors


def _arrays(
    path: str | os.PathLike, tensors: "Mapping[str, torch.Tensor]"
) -> StateDict:
    """Convert tensors to arrays; `merge` refuses complex arrays."""
    import torch

    errors = [
        f"{name} is {kind}"
        for name, tensor in tensors.items()
        for kind, wrong in (
            ("sparse", tensor.layout != torch.strided),
            ("quantised", tensor.is_quantized),
            ("without values", tensor.is_meta),
        )
        if wrong
    ]
    if errors:
        raise WeightFileError.of(path, "dense tensors with values", errors)
    # A tensor can repeat one value without storing it again.
    content.check_size(
        path, sum(t.numel() * t.element_size() for t in tensors.values())
    )
    arrays = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            tensor = tensor.float()  # NumPy has no bfloat16
        arrays[name] = tensor.numpy()
    return arrays


def write(
    path: str | os.PathLike, state: StateDict, metadata: Mapping[str, str]
) -> None:
    """Write a state dict as a safetensors file."""
    safetensors.numpy.save_file(state, path, dict(metadata))
    files.set_default_mode(path)
