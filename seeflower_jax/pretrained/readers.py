"""Read weight files; the suffix of a file name chooses the reader.

variables, spec = read("vgg16", "vgg16-397923af.pth")
register([".npz"], read_npz)    # files of another framework
"""

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import jax
import safetensors

from seeflower_jax import models
from seeflower_jax.pretrained import (
    content,
    converted,
    keras_h5,
    torch_files,
    torch_state,
)
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.types import Variables


class Reader(Protocol):
    """A function that reads one format of weight files.

    Args:
      model: the name of the network.
      path: the weight file.

    Returns:
      (variables, spec). The variables have the names of this package and may lack the
      head. The spec has the preprocessing, the pooling rule and the epsilon that the
      weights expect. The reader need not check whether variables are missing, because
      `merge` checks names and shapes.

    Raises:
      WeightFileError: if the file does not hold the network.
    """

    def __call__(
        self, model: str, path: pathlib.Path, /
    ) -> tuple[Variables, models.ModelSpec]: ...


def _read_keras(model: str, path: pathlib.Path) -> tuple[Variables, models.ModelSpec]:
    _check_convertible(model, path)
    return keras_h5.convert(model, keras_h5.read(path), path), models.get_spec(model)


def _read_torch(model: str, path: pathlib.Path) -> tuple[Variables, models.ModelSpec]:
    _check_convertible(model, path)
    state, metadata = torch_files.read(path)
    fields = _own_spec(metadata, path)
    if fields is not None:
        spec = _stored_spec(model, fields, path)
    else:
        spec = models.get_spec(model, **torch_state.RULES[model])
    return torch_state.convert(model, state, path), spec


def _own_spec(metadata: Mapping[str, str], path: pathlib.Path) -> dict[str, Any] | None:
    """Return the fields of the ModelSpec in the metadata of a safetensors file.

    Return None if there is no 'spec', or if another program wrote it.
    """
    try:
        fields = json.loads(metadata["spec"])
    except KeyError:
        return None
    except ValueError:
        fields = None
    required = {f.name for f in dataclasses.fields(models.ModelSpec) if _required(f)}
    if isinstance(fields, dict) and required <= fields.keys():
        return fields
    logging.info("%s: ignored 'spec' in its metadata, which is no ModelSpec", path)
    return None


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _check_convertible(model: str, path: pathlib.Path) -> None:
    if model not in torch_state.RULES:
        raise WeightFileError(
            f"{path} cannot be read as weights of {model}: only files of "
            f"{list(torch_state.RULES)} can be converted from Keras and torchvision"
        )


# The reader of each suffix. `register` adds entries.
READERS: dict[str, Reader] = {
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _read_keras),
    **dict.fromkeys((".pth", ".pt", ".tar", ".safetensors"), _read_torch),
}


def register(suffixes: Iterable[str], reader: Reader) -> None:
    """Register a reader for some suffixes, for `read` and for every config and script.

    A reader that is registered later replaces the earlier reader of the same suffix.

    Args:
      suffixes: the ends of file names, such as `[".npz"]`.
      reader: a function (model, path) -> (variables, spec).

    Raises:
      ValueError: if a suffix does not start with a dot.

    Example:
      >>> def read_npz(model, path):
      ...     with np.load(path) as file:
      ...         return to_variables(dict(file)), models.get_spec(model)
      >>> register([".npz"], read_npz)
    """
    suffixes = list(suffixes)
    for suffix in suffixes:
        if not suffix.startswith(".") or suffix.count(".") > 1:
            raise ValueError(
                f"invalid suffix {suffix!r} of weight files; expected a dot and a name "
                "without dots, such as '.npz'"
            )
    READERS.update(dict.fromkeys(suffixes, reader))


def read(model: str, path: str | os.PathLike) -> tuple[Variables, models.ModelSpec]:
    """Read a weight file or a folder of converted weights.

    Args:
      model: the name of the network.
      path: the file or the folder.

    Returns:
      (variables, spec). The variables include the head if the file has one. The spec
      has the preprocessing, the pooling rule and the batch normalisation of the
      weights.

    Raises:
      WeightFileError: if the format is unknown or the file holds another network.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        description, variables = converted.load(path)
        return variables, _stored_spec(model, description["spec"], path)
    reader = _reader(path)
    if path.exists():
        content.check_kind(path)
    try:
        variables, spec = reader(model, path)
        leaves = jax.tree_util.tree_leaves_with_path(variables["params"]["backbone"])
    except (WeightFileError, OSError, ImportError):
        raise
    except Exception as error:  # A damaged file can break a reader anywhere.
        raise WeightFileError(
            f"{path} cannot be read as weights of {model}: {type(error).__name__}: "
            f"{error}. The file may be damaged: download or save it again"
        ) from error
    has_scale = any(name[-1].key == "scale" for name, _ in leaves)
    return variables, dataclasses.replace(spec, batch_norm_scale=has_scale)


def tells_preprocessing(path: str | os.PathLike) -> bool:
    """Return whether a file, a folder or its reader states the preprocessing.

    Files of Keras and torchvision do not. Their readers return the usual preprocessing.
    """
    path = pathlib.Path(path)
    if path.is_dir() or _reader(path) not in (_read_keras, _read_torch):
        return True
    if path.suffix.lower() != ".safetensors":
        return False
    with safetensors.safe_open(path, framework="numpy") as file:
        return _own_spec(file.metadata() or {}, path) is not None


def _reader(path: pathlib.Path) -> Reader:
    for suffix in (path.suffix, path.suffix.lower()):
        if suffix in READERS:
            return READERS[suffix]
    raise WeightFileError(
        f"{path} has an unknown format: expected a file name that ends in one of "
        f"{', '.join(READERS)}, or a folder of converted weights"
    )


def _stored_spec(
    model: str, fields: Mapping[str, Any], path: pathlib.Path
) -> models.ModelSpec:
    """Return the spec that a file stores, if it is of `model`."""
    if fields["name"] != model:
        raise WeightFileError(f"{path} holds {fields['name']}, expected {model}")
    try:
        return models.get_spec(**fields)
    except (TypeError, ValueError) as error:
        raise WeightFileError(
            f"{path} describes {model} with invalid values: {error}. The file is "
            "damaged or from another version: convert the weights again"
        ) from error
