"""Export a network to a folder that runs without the network's own code.

    save("flowers", network, metrics)
    network = load("flowers")

`model.stablehlo` is the function (parameters, images) -> logits, serialised by
`jax.export` for any batch size and for CPU and GPU. The images are float32 [n, size,
size, 3], RGB in [0, 255], as the network's view returns them.
`parameters.safetensors` contains the variables. `model.json` contains all other values,
such as the spec, the view, the class names and the hashes of the files.
`whitening.npz` contains the whitening, if the network has one. Loading an export
requires JAX and safetensors, but neither flax nor optax.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from jax import export
from jaxtyping import Array

from seeflower_jax import records
from seeflower_jax.data import whitening
from seeflower_jax.data.view import View
from seeflower_jax.download import file_hash
from seeflower_jax.inference.network import Network
from seeflower_jax.models.spec import ModelSpec
from seeflower_jax.records import files

PLATFORMS = ("cpu", "cuda")
_PROGRAM, _PARAMETERS, _DESCRIPTION = _FILES = (
    "model.stablehlo",
    "parameters.safetensors",
    "model.json",
)
_KEYS = ("spec", "view", "class_names", "temperature", "sha256")


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
    """Return the names of the files of an export that a folder lacks."""
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
      OSError: if the disk is full.
    """
    with records.creating(folder) as partial:
        partial.mkdir()
        flat = jax.device_get(dict(records.flat(network.variables, "/")))
        (partial / _PROGRAM).write_bytes(_serialize(network, flat))
        safetensors.numpy.save_file(flat, partial / _PARAMETERS)
        files.set_default_mode(partial / _PARAMETERS)
        if network.preprocess is not None:
            network.preprocess.save(partial / whitening.FILE_NAME)
        description = {
            **network.describe(),
            "metrics": dict(metrics),
            "platforms": list(PLATFORMS),
            "jax": jax.__version__,
        }
        description["sha256"] = {
            **{path.name: file_hash(path) for path in partial.iterdir()},
            _DESCRIPTION: _description_hash(description),
        }
        (partial / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _description_hash(description: Mapping) -> str:
    """Return the SHA-256 of a description without its hashes."""
    content = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
      OSError: if a file cannot be opened.
      ValueError: if the folder is not an export, or is incomplete or damaged; the
        message names the file.
    """
    folder = pathlib.Path(folder).expanduser()
    description = describe(folder)
    _check_hashes(folder, description)
    program, variables = _load_program(folder)
    with _damaged(folder / whitening.FILE_NAME):
        preprocess = whitening.load_from(folder)
    return Network(
        spec=ModelSpec(**description["spec"]),
        variables=variables,
        view=View(**description["view"]),
        class_names=tuple(description["class_names"]),
        temperature=description["temperature"],
        preprocess=preprocess,
        origin=str(folder.resolve()),
        program=lambda variables, images: program.call(
            dict(records.flat(variables, "/")), images
        ),
    )


def describe(folder: str | os.PathLike) -> dict:
    """Return the content of `model.json` in a folder that `save` wrote.

    Raises:
      OSError: if the file cannot be opened.
      ValueError: if the folder is not an export, or is incomplete or damaged.
    """
    folder = pathlib.Path(folder).expanduser()
    if missing := missing_files(folder):
        raise ValueError(
            f"{folder} is not an export: {', '.join(missing)} is missing; expected a "
            "folder that scripts.export wrote"
        )
    path = folder / _DESCRIPTION
    with _damaged(path):
        description = json.loads(path.read_text())
        if not isinstance(description, dict):
            raise ValueError("it holds no object")
    if missing := [key for key in _KEYS if key not in description]:
        raise ValueError(
            f"{path} has no {', '.join(map(repr, missing))}, so an older version wrote "
            "it; export the run again"
        )
    return description


@contextlib.contextmanager
def _damaged(path: pathlib.Path) -> Iterator[None]:
    """Turn all errors of reading a file into an error with its name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:  # The message says why, and names the file.
            raise
        raise ValueError(_advice(path, error)) from error
    except Exception as error:  # Decoders raise almost anything for damaged files.
        raise ValueError(_advice(path, error)) from error


def _advice(path: pathlib.Path, error: object) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{path} is damaged: {reason}; copy the export or export the run again"


def _check_hashes(folder: pathlib.Path, description: Mapping) -> None:
    """Check that all files of an export have the content that `save` wrote."""
    with _damaged(folder / _DESCRIPTION):
        hashes = dict(description["sha256"])
        if not set(_FILES) <= hashes.keys():
            raise ValueError(f"it has the hashes of {list(hashes)} only")
        if hashes.pop(_DESCRIPTION) != _description_hash(description):
            raise ValueError("its values are not those that were written")
    if (folder / whitening.FILE_NAME).exists():
        hashes.setdefault(whitening.FILE_NAME, "no such file")
    for name, expected in hashes.items():
        path = folder / pathlib.Path(name).name
        if not path.exists():
            raise ValueError(_advice(path, "it is missing"))
        if (digest := file_hash(path)) != expected:
            reason = f"its SHA-256 is {digest[:12]}..., not {str(expected)[:12]}..."
            raise ValueError(_advice(path, reason))


def _load_program(folder: pathlib.Path) -> tuple[export.Exported, dict]:
    """Return the function of an export and the variables that it takes."""
    with _damaged(folder / _PROGRAM):
        program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
        arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        shapes = {name: array.shape for name, array in arguments[0].items()}
    with _damaged(folder / _PARAMETERS):
        open(folder / _PARAMETERS, "rb").close()  # Says why it cannot be opened.
        flat = safetensors.numpy.load_file(folder / _PARAMETERS)
        if {name: array.shape for name, array in flat.items()} != shapes:
            raise ValueError(f"its arrays are not those of {_PROGRAM}")
    return program, _unflatten(flat)
