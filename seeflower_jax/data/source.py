"""A set of labelled images, still encoded, wherever it comes from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Labelled images, still encoded, and their splits.

    Attributes:
      name: of the set, part of the pixel cache's file name.
      fingerprint: hexadecimal; it changes when the files change.
      class_names: by label.
      keys: name of each image.
      labels: of each image, from 0.
      splits: {'train', 'validation', 'test': indices of images}; a split that does not
        exist is absent.
      read: index -> the encoded image.
    """

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    keys: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    splits: dict[str, Int32[np.ndarray, " m"]]
    read: Callable[[int], bytes]

    def indices(self, split: str) -> Int32[np.ndarray, " m"]:
        """Return the indices of the images of a split.

        Raises:
          ValueError: if there is no such split.
        """
        if split not in self.splits:
            raise ValueError(
                f"{self.name} has no {split!r} split here; it has {sorted(self.splits)}"
            )
        return self.splits[split]

    def describe(self) -> dict:
        """Count classes and images of each split, and hash all names.

        The result tells whether a run goes on with the images it had, wherever they lie
        now.
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
