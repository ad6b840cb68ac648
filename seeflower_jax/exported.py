"""A network as a folder that runs without the code that made it.

    save(folder, network, metrics)
    logits, description = load(folder)
    logits(images)            # uint8 [N, size, size, 3] -> float32 [N, classes]

`model.stablehlo` is the function, serialised by `jax.export` for any batch size and for
CPU and GPU; `parameters.safetensors` are its variables, `model.json` says the rest. To
load one takes JAX, safetensors and this module.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from jax import export

if TYPE_CHECKING:
    from seeflower_jax.network import Network

PLATFORMS = ("cpu", "cuda")
_FILES = ("model.stablehlo", "parameters.safetensors", "model.json")


def _flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _tree(flat: dict) -> dict:
    """The variables of a network from what `_flat` gave."""
    from flax import traverse_util  # to run an export does not take it

    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat, sep="/")}


def save(folder: str | os.PathLike, network: "Network", metrics: dict) -> None:
    """Writes a folder, which must not exist.

    Args:
      folder: what to make.
      network: its preprocessing becomes part of the function; how to crop pictures and
        calibrate logits is told in the description.
      metrics: for the description.

    Raises:
      FileExistsError: if the folder exists.
    """
    from seeflower_jax import models

    def logits(flat, images):
        bound = models.bind(network.spec, _tree(flat), network.preprocess)
        return bound(images)[0]

    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True)
    flat = jax.device_get(dict(_flat(network.variables)))
    (batch,) = export.symbolic_shape("batch")
    size = network.size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
    function = export.export(jax.jit(logits), platforms=PLATFORMS)(like, images)
    description = {
        "spec": network.spec.to_dict(),
        "class_names": list(network.class_names),
        "metrics": metrics,
        "size": size,
        "crop": network.crop,
        "keep_aspect": network.keep_aspect,
        "shortest_side": network.shortest_side,
        "temperature": network.temperature,
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }
    program, parameters, described = (folder / name for name in _FILES)
    program.write_bytes(function.serialize())
    safetensors.numpy.save_file(flat, parameters)
    described.write_text(json.dumps(description, indent=2) + "\n")


def load(folder: str | os.PathLike) -> tuple[Callable, dict]:
    """(logits, model.json's content) of a folder that `save` wrote.

    Raises:
      ValueError: if it is no such folder or incomplete.
    """
    folder = pathlib.Path(folder).expanduser()
    described, flat = describe(folder), _load_flat(folder)
    function = export.deserialize(bytearray((folder / _FILES[0]).read_bytes()))
    call = jax.jit(function.call)
    return lambda images: call(flat, images), described


def describe(folder: str | os.PathLike) -> dict:
    """The content of model.json in a folder that `save` wrote.

    Raises:
      ValueError: if it is no such folder or incomplete.
    """
    folder = pathlib.Path(folder).expanduser()
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no exported model: {', '.join(missing)} is missing; expected "
            "a folder that scripts.export wrote"
        )
    return json.loads((folder / _FILES[2]).read_text())


def load_variables(folder: str | os.PathLike) -> dict:
    """The variables {'params', 'batch_stats'} in a folder that `save` wrote.

    Raises:
      ValueError: if it is no such folder or incomplete.
    """
    folder = pathlib.Path(folder).expanduser()
    describe(folder)
    return _tree(_load_flat(folder))


def _load_flat(folder: pathlib.Path) -> dict:
    parameters = folder / "parameters.safetensors"
    try:
        return safetensors.numpy.load_file(parameters)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{parameters} cannot be read: {error}") from error
