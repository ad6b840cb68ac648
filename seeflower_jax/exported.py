"""A network as a folder that runs without the code that made it.

    save(folder, spec, variables, class_names, metrics, size=320)
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

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from jax import export

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


def save(
    folder: str | os.PathLike,
    spec,
    variables: dict,
    class_names,
    metrics: dict,
    size: int,
    crop: float = 1.0,
    preprocess: Callable | None = None,
    keep_aspect: bool = True,
    temperature: float = 1.0,
) -> None:
    """Writes a folder, which must not exist.

    Args:
      folder: what to make.
      spec, variables: of the network.
      class_names: of the logits.
      metrics: for the description.
      size: side in pixels of the pictures that the function takes.
      crop: the central square's share of a picture's shortest side, for the caller.
      preprocess: applied to pictures in [0, 255] before the network (whitening).
      keep_aspect: False where pictures are to be squashed, for the caller.
      temperature: to divide logits by for calibrated probabilities, for the caller.

    Raises:
      FileExistsError: if the folder exists.
    """
    from seeflower_jax import models

    def logits(flat, images):
        return models.bind(spec, _tree(flat), preprocess)(images)[0]

    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True)
    flat = jax.device_get(dict(_flat(variables)))
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
    function = export.export(jax.jit(logits), platforms=PLATFORMS)(like, images)
    description = {
        "spec": spec.to_dict(),
        "class_names": list(class_names),
        "metrics": metrics,
        "size": size,
        "crop": crop,
        "keep_aspect": keep_aspect,
        "temperature": temperature,
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
    program, _, described = (folder / name for name in _FILES)
    flat = _load_flat(folder)
    function = export.deserialize(bytearray(program.read_bytes()))
    call = jax.jit(function.call)
    return lambda images: call(flat, images), json.loads(described.read_text())


def load_variables(folder: str | os.PathLike) -> dict:
    """The variables {'params', 'batch_stats'} in a folder that `save` wrote.

    Raises:
      ValueError: if it is no such folder or incomplete.
    """
    return _tree(_load_flat(pathlib.Path(folder).expanduser()))


def _load_flat(folder: pathlib.Path) -> dict:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no exported model: {', '.join(missing)} is missing; expected "
            "a folder that scripts.export wrote"
        )
    parameters = folder / "parameters.safetensors"
    try:
        return safetensors.numpy.load_file(parameters)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{parameters} cannot be read: {error}") from error
