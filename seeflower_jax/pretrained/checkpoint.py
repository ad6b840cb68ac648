"""Converted weights: a folder with an Orbax checkpoint and what it needs to be used.

    save(folder, spec, variables, source={"name": ..., "sha256": ...})
    description, variables = load(folder)

`model.json` holds the ModelSpec, where the weights come from and whether the head is
among them.
"""

import json
import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from seeflower_jax import models
from seeflower_jax.pretrained.errors import WeightFileError


def save(folder, spec: models.ModelSpec, variables: dict, source: dict) -> None:
    """Writes a folder, which must not exist.

    Raises:
      FileExistsError: if it does.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    folder.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "variables", variables)
    content = {"spec": spec.to_dict(), "source": source}
    content["head"] = "head" in variables["params"]
    (folder / "model.json").write_text(json.dumps(content, indent=2) + "\n")


def load(folder: str | os.PathLike) -> tuple[dict, dict]:
    """({'spec', 'source', 'head'}, variables) of a folder that `save` wrote.

    Raises:
      WeightFileError: if it is no such folder.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    try:
        content = json.loads((folder / "model.json").read_text())
        like = models.shapes(models.ModelSpec(**content["spec"]))
        if not content["head"]:
            like["params"].pop("head")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightFileError(
            f"{folder} holds {sorted(p.name for p in folder.iterdir())}, expected a "
            f"folder that scripts.convert_weights wrote: {error}"
        ) from error
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(folder / "variables", like)
    return content, jax.tree.map(np.asarray, variables)
