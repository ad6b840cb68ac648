"""Export a network to a folder that runs without the network's own code.

    save("flowers", network, metrics)
    network = load("flowers")

`model.stablehlo` is the function (parameters, images) -> logits, serialised by
`jax.export` for any batch size and for CPU and GPU. The images are float32 [n, size,
size, 3], RGB in [0, 255], as the network's view returns them.
`parameters.safetensors` contains the variables. `model.json` contains all other values,
such as the spec, the view and the class names. `whitening.npz` contains the whitening,
if the network has one. Loading an export requires JAX and safetensors, but neither flax
nor optax.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from jax import export
from jaxtyping import Array

from seeflower_jax.data import whitening
from seeflower_jax.data.view import View
from seeflower_jax.inference.network import Network
from seeflower_jax.models.spec import ModelSpec

PLATFORMS = ("cpu", "cuda")
_PROGRAM, _PARAMETERS, _DESCRIPTION = _FILES = (
    "model.stablehlo",
    "parameters.safetensors",
    "model.json",
)


def _flatten(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _unflatten(flat: Mapping[str, Any]) -> dict:
    """Restore the variables of a network from their flat form."""
    tree: dict = {"batch_stats": {}}
    for name, value in flat.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def is_export(folder: str | os.PathLike) -> bool:
    """Return whether a folder holds a complete export."""
    return not missing_files(folder)


def missing_files(folder: str | os.PathLike) -> list[str]:
    """Return the names of the files that a folder lacks to be an export."""
    folder = pathlib.Path(folder).expanduser()
    return [name for name in _FILES if not (folder / name).is_file()]


def save(folder: str | os.PathLike, network: Network, metrics: Mapping) -> None:
    """Write a network to a new folder.

    Args:
      folder: path of the new folder, which appears when it is complete.
      network: network to export; the exported function includes its whitening.
      metrics: metrics of the network, for `model.json`.

    Raises:
      FileExistsError: if the folder exists.
    """
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        raise FileExistsError(f"{folder} exists; expected the name of a new folder")
    flat = jax.device_get(dict(_flatten(network.variables)))
    description = {
        **network.describe(),
        "metrics": dict(metrics),
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }
    partial = folder.with_name(f"partial_{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # from an interrupted call
    partial.mkdir(parents=True)
    (partial / _PROGRAM).write_bytes(_serialize(network, flat))
    safetensors.numpy.save_file(flat, partial / _PARAMETERS)
    if network.preprocess is not None:
        network.preprocess.save(partial / whitening.FILE_NAME)
    (partial / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    os.replace(partial, folder)


def _serialize(network: Network, flat: Mapping[str, Any]) -> bytearray:
    """Serialise the function (flat variables, images) -> logits of a network."""

    def logits(flat: Mapping[str, Array], images: Array) -> Array:
        return network.bind(_unflatten(flat))(images)[0]

    (batch,) = export.symbolic_shape("batch")
    size = network.view.size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
    return export.export(jax.jit(logits), platforms=PLATFORMS)(like, images).serialize()


def load(folder: str | os.PathLike) -> Network:
    """Return the network of a folder that `save` wrote.

    Raises:
      ValueError: if the folder is not an export, or is incomplete.
    """
    folder = pathlib.Path(folder).expanduser()
    description = describe(folder)
    program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
    return Network(
        spec=ModelSpec(**description["spec"]),
        variables=_unflatten(_load_parameters(folder)),
        view=View(**description["view"]),
        class_names=tuple(description["class_names"]),
        temperature=description["temperature"],
        preprocess=whitening.load_from(folder),
        origin=str(folder.resolve()),
        program=lambda variables, images: program.call(
            dict(_flatten(variables)), images
        ),
    )


def describe(folder: str | os.PathLike) -> dict:
    """Return the content of `model.json` in a folder that `save` wrote.

    Raises:
      ValueError: if the folder is not an export, or is incomplete.
    """
    folder = pathlib.Path(folder).expanduser()
    if missing := missing_files(folder):
        raise ValueError(
            f"{folder} is not an export: {', '.join(missing)} is missing; expected a "
            "folder that scripts.export wrote"
        )
    description = json.loads((folder / _DESCRIPTION).read_text())
    if "view" not in description:
        raise ValueError(
            f"{folder / _DESCRIPTION} has no 'view', so an older version wrote it; "
            "export the run again"
        )
    return description


def _load_parameters(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / _PARAMETERS
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
