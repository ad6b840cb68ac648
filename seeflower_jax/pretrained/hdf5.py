"""Read HDF5 groups without trusting what a file declares.

    with h5py.File(path) as file:
        kernel = Hdf5(file, path).group("block1_conv1").array("kernel:0")

An HDF5 file can refer to other files and can declare any size. `Hdf5` reads only arrays
in the file itself, and checks sizes first.
"""

import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from seeflower_jax.pretrained import content
from seeflower_jax.pretrained.errors import WeightFileError


class Hdf5:
    """A group of an HDF5 file.

    Attributes:
      path: the file, for messages and for its size.
      names: the names of the groups and arrays in the group.
      attributes: the attributes of the group.
    """

    def __init__(
        self,
        group: h5py.Group,
        path: str | os.PathLike,
        declared: list[int] | None = None,
    ) -> None:
        self._group = group
        # The sizes of all arrays that were read from the file so far.
        self._declared = [] if declared is None else declared
        self.path = path

    @property
    def names(self) -> list[str]:
        """The names of the groups and arrays in this group."""
        return list(self._group)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes of this group."""
        return self._group.attrs

    def group(self, name: str) -> "Hdf5":
        """Return a group in this group.

        Raises:
          KeyError: if there is no such group.
          WeightFileError: if the name refers to another file.
        """
        child = self._child(name)
        if not isinstance(child, h5py.Group):
            raise KeyError(f"{name!r} is no group")
        return Hdf5(child, self.path, self._declared)

    def array(self, name: str) -> np.ndarray:
        """Return an array in this group.

        Raises:
          KeyError: if there is no such array.
          WeightFileError: if the values are in another file, are not numbers, or would
            need far more memory than the file has bytes.
        """
        dataset = self._child(name)
        if not isinstance(dataset, h5py.Dataset):
            raise KeyError(f"{name!r} is no array")
        if dataset.external or dataset.is_virtual:
            raise WeightFileError(
                f"{self.path} is refused: the values of {dataset.name} are in another "
                "file; expected a file that holds its own weights"
            )
        if dataset.dtype.kind not in "fiuc":
            raise WeightFileError(
                f"{self.path}: {dataset.name} has type {dataset.dtype}, "
                "expected numbers"
            )
        self._declared.append(dataset.nbytes)
        content.check_size(self.path, sum(self._declared))
        return np.asarray(dataset[()])

    def _child(self, name: str) -> h5py.Group | h5py.Dataset:
        """Return the group or array at a path in this group; refuse links."""
        child = self._group
        for part in name.split("/"):
            if not isinstance(child, h5py.Group):
                raise KeyError(f"{name!r} does not exist in {self._group.name}")
            link = child.get(part, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise WeightFileError(
                    f"{self.path} is refused: {child.name}/{part} is a link; expected "
                    "a file that holds its own weights"
                )
            child = child[part]
        return child
