"""Write and read folders of converted weights, for `scripts.convert_weights`.

    save(folder, spec, variables, source={"name": ..., "sha256": ...})
    description, variables = load(folder)

A folder holds an Orbax checkpoint in `variables/` and a description in `model.json`.
The description has the ModelSpec, the origin of the weights and whether they have a
head.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import numpy as np
import orbax.checkpoint as ocp

from seeflower_jax import models, records
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.types import Variables
from seeflower_jax.records import callbacks

_EXPORTED = "model.stablehlo"  # in a folder of `inference.export`


class Description(TypedDict):
    """The content of `model.json`.

    Attributes:
      spec: the fields of the ModelSpec.
      source: the origin of the weights.
      head: True if the variables include the head.
    """

    spec: dict[str, Any]
    source: dict[str, Any]
    head: bool


def _checkpointer() -> ocp.StandardCheckpointer:
    callbacks.silence_closed_loops()
    return ocp.StandardCheckpointer()


def save(
    folder: str | os.PathLike,
    spec: models.ModelSpec,
    variables: Variables,
    source: Mapping[str, Any],
) -> None:
    """Write a folder of converted weights, which must not exist yet.

    The folder appears only when it is complete.

    Raises:
      FileExistsError: if the folder exists.
      OSError: if the disk is full.
    """
    description = Description(
        spec=spec.to_dict(), source=dict(source), head="head" in variables["params"]
    )
    with records.creating(pathlib.Path(folder).expanduser().resolve()) as partial:
        partial.mkdir()
        with _checkpointer() as checkpointer:
            checkpointer.save(partial / "variables", variables)
        (partial / "model.json").write_text(json.dumps(description, indent=2) + "\n")


def describe(folder: str | os.PathLike) -> Description:
    """Return the description of a folder that `save` wrote.

    Raises:
      OSError: if the description cannot be opened.
      WeightFileError: if the folder does not hold converted weights, or if its
        description is damaged.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    path = folder / "model.json"
    if (folder / _EXPORTED).exists():
        raise WeightFileError(
            f"{folder} is an export, expected converted weights; scripts that predict "
            "or explain take it as --export, and scripts.convert_weights converts its "
            "run"
        )
    if not path.exists():
        names = sorted(path.name for path in folder.iterdir())
        raise WeightFileError(
            f"{folder} holds {names[:8]}, expected a folder that "
            "scripts.convert_weights wrote"
        )
    try:
        description = json.loads(path.read_text())
        if not all(isinstance(description[key], dict) for key in ("spec", "source")):
            raise ValueError("'spec' and 'source' are not both objects")
        models.ModelSpec(**description["spec"])
        description["head"] = bool(description["head"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightFileError(
            f"{path} is damaged or from another version ({reason}); convert the "
            "weights again"
        ) from error
    return description


def load(folder: str | os.PathLike) -> tuple[Description, Variables]:
    """Return the description and the variables of a folder that `save` wrote.

    Raises:
      OSError: if a file cannot be opened.
      WeightFileError: if the folder does not hold converted weights, or is damaged.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    description = describe(folder)
    expected = models.shapes(models.ModelSpec(**description["spec"]))
    if not description["head"]:
        expected["params"].pop("head")
        expected["batch_stats"].pop("head", None)
    try:
        with _checkpointer() as checkpointer:
            variables = checkpointer.restore(folder / "variables", expected)
    except PermissionError:
        raise
    except Exception as error:  # Orbax raises almost anything for damaged files.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightFileError(
            f"{folder / 'variables'} cannot be read: {reason}. The folder is damaged: "
            "convert the weights again"
        ) from error
    return description, jax.tree.map(np.asarray, variables)
