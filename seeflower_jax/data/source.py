"""Define the source of a data set: labelled, encoded images and their splits."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32


def stamp(file: pathlib.Path | os.DirEntry) -> tuple[int, int]:
    """Return the size of a file in bytes and the time of its last change in ns."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def fingerprint(folder: str, files: Sequence[tuple[str, tuple[int, int]]]) -> str:
    """Return the fingerprint of the files of an `ImageSource`.

    Args:
      folder: absolute path of the folder of the images.
      files: (name, `stamp`) of each file.
    """
    return hashlib.sha256(repr((folder, files)).encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """A set of labelled, encoded images and their splits.

    Attributes:
      name: name of the set, part of the file name of the pixel cache.
      fingerprint: hexadecimal hash of the folder and of the names, sizes and times of
        its files, or of what is drawn. Only `PixelCache.digest` knows the contents.
      class_names: name of each class, by label.
      keys: name of each image.
      labels: label of each image, from 0.
      splits: {'train', 'validation', 'test': indices of images}, without the splits
        that the set does not have.
      read: function from an index to the encoded image.
      folder: absolute path of the folder of the images; '' for drawn images.
    """

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    keys: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    splits: dict[str, Int32[np.ndarray, " m"]]
    read: Callable[[int], bytes]
    folder: str = dataclasses.field(default="", kw_only=True)

    def indices(self, split: str) -> Int32[np.ndarray, " m"]:
        """Return the indices of the images of a split.

        Raises:
          ValueError: if the set has no such split.
        """
        if split not in self.splits:
            raise ValueError(
                f"{self.name} has no {split!r} split here; it has {sorted(self.splits)}"
            )
        return self.splits[split]

    def describe(self) -> dict:
        """Return the numbers of classes and images, and a hash of all names.

        A resumed run compares this description with the recorded description. The
        images may have moved to another folder, but must be the same.
        """
        names = {
            split: [(self.keys[i], self.class_names[self.labels[i]]) for i in indices]
            for split, indices in self.splits.items()
        }
        text = json.dumps([self.class_names, names], sort_keys=True)
        return {
            "classes": len(self.class_names),
            "images": {split: len(rows) for split, rows in names.items()},
            "hash": hashlib.sha256(text.encode()).hexdigest()[:12],
        }
