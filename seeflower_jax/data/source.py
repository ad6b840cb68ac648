"""What a set of labelled pictures is, wherever it comes from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Labelled pictures, still encoded, and their splits.

    Attributes:
      name: of the set, part of the pixel cache's file name.
      fingerprint: hexadecimal; another one if the files are others.
      class_names: by label.
      keys: name of each picture.
      labels: int32 [N], from 0.
      splits: {'train', 'validation', 'test': int32 indices of pictures}; a split that
        does not exist is absent.
      read: index -> the encoded picture.
    """

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    keys: tuple[str, ...]
    labels: np.ndarray
    splits: dict[str, np.ndarray]
    read: Callable[[int], bytes]

    def part(self, split: str) -> np.ndarray:
        """The pictures of a split, int32.

        Raises:
          ValueError: if there is no such split.
        """
        if split not in self.splits:
            raise ValueError(
                f"{self.name} has no {split!r} part here; it has {sorted(self.splits)}"
            )
        return self.splits[split]

    def describe(self) -> dict:
        """Number of classes and of pictures in each split, and a hash of all names.

        It tells whether a run goes on with the pictures it had, wherever they lie now.
        """
        names = {
            part: [(self.keys[i], self.class_names[self.labels[i]]) for i in indices]
            for part, indices in self.splits.items()
        }
        text = json.dumps([self.class_names, names], sort_keys=True)
        return {
            "classes": len(self.class_names),
            "pictures": {part: len(rows) for part, rows in names.items()},
            "hash": hashlib.sha256(text.encode()).hexdigest()[:12],
        }
