"""Keep the logits of a teacher for the training images of a run.

    teacher.write("teacher.npz", dataset, logits)
    teacher.read("teacher.npz", dataset).logits

A teacher must not have learned the label of the image that it predicts. The teacher of
`ensemble.joint_head` predicts each training image by a head that was solved without it.
"""

import dataclasses
import os
import pathlib
import zipfile

import numpy as np
from jaxtyping import Float

from seeflower_jax import download
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.experiment import kept

_ADVICE = "write it with python -m scripts.ensemble --joint_head --teacher=FILE"


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """The logits of a teacher.

    Attributes:
      logits: logits of all training images, in the order of the split.
      sha256: SHA-256 of the file of the logits.
    """

    logits: Float[np.ndarray, "n c"]
    sha256: str

    def by_index(self, dataset: Dataset) -> Float[np.ndarray, "m c"]:
        """Return a row for each image of a data set, by its index."""
        shape = len(dataset.source.labels), self.logits.shape[1]
        rows = np.zeros(shape, np.float32)
        rows[dataset.indices("train")] = self.logits
        return rows


def write(
    path: str | os.PathLike, dataset: Dataset, logits: Float[np.ndarray, "n c"]
) -> None:
    """Write the logits of all training images, in the order of the split."""
    path = pathlib.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    kept.write_rows(path, _identity(dataset), logits.astype(np.float32))


def file_hash(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file of logits.

    Raises:
      FileNotFoundError: if there is no such file.
    """
    return download.file_hash(_locate(path))


def _locate(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"config.distillation.logits: {path} does not exist; {_ADVICE}"
        )
    return path


def read(path: str | os.PathLike, dataset: Dataset) -> Teacher:
    """Read the logits of all training images.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, or belongs to other images or another split.
    """
    path = _locate(path)
    try:
        with np.load(path) as file:
            logits, identity = file["logits"], str(file["of"])
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}; {_ADVICE}") from error
    if identity != _identity(dataset):
        raise ValueError(
            f"{path} does not have the logits of the training images of "
            f"{dataset.source.name}; {_ADVICE}, from runs of the same split"
        )
    return Teacher(logits, download.file_hash(path))


def _identity(dataset: Dataset) -> str:
    """Return a hash of the names, classes and splits of the images."""
    return dataset.source.describe()["hash"]
