"""Folders of converted weights, as `scripts.convert_weights` writes them.

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

from seeflower_jax import models
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.types import Variables


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


def save(
    folder: str | os.PathLike,
    spec: models.ModelSpec,
    variables: Variables,
    source: Mapping[str, Any],
) -> None:
    """Write a folder of converted weights, which must not exist yet.

    Raises:
      FileExistsError: if the folder exists.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    folder.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "variables", variables)
    description = Description(
        spec=spec.to_dict(), source=dict(source), head="head" in variables["params"]
    )
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")


def load(folder: str | os.PathLike) -> tuple[Description, Variables]:
    """Return the description and the variables of a folder that `save` wrote.

    Raises:
      WeightFileError: if the folder does not hold converted weights.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    try:
        description = json.loads((folder / "model.json").read_text())
        expected = models.shapes(models.ModelSpec(**description["spec"]))
        if not description["head"]:
            expected["params"].pop("head")
            expected["batch_stats"].pop("head", None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        names = sorted(path.name for path in folder.iterdir())
        raise WeightFileError(
            f"{folder} holds {names}, expected a folder that scripts.convert_weights "
            f"wrote: {error}"
        ) from error
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(folder / "variables", expected)
    return description, jax.tree.map(np.asarray, variables)
