"""A list of images with names, labels and readers: a split, a folder, a list of paths.

images = Images.of_files("photos/", shortest_side=320)     # or "photos/*.jpg", ...
images = dataset.images("test")                            # of `Dataset`
pixels = images.read(0)           # uint8 [h, w, 3]
first = images[:100]
"""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from seeflower_jax.data import decode
from seeflower_jax.data.decode import SUFFIXES, UnreadableImage
from seeflower_jax.data.image_folder import class_name


@dataclasses.dataclass(frozen=True)
class Images:
    """Images to be used one after the other.

    Attributes:
      names: what records call them.
      labels: class index of each, None where it is not known.
      read: position -> pixels, decoded and resized; may raise `UnreadableImage`.
      original_size: position -> (width, height) in pixels of the image as it was given,
        upright.
    """

    names: Sequence[str]
    labels: Sequence[int | None]
    read: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    original_size: Callable[[int], tuple[int, int]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: slice | Sequence[int]) -> "Images":
        """Return some of the images: a slice, or positions in any order."""
        positions = range(len(self))[chosen] if isinstance(chosen, slice) else chosen
        return Images(
            [self.names[i] for i in positions],
            [self.labels[i] for i in positions],
            lambda position: self.read(positions[position]),
            lambda position: self.original_size(positions[position]),
        )

    @classmethod
    def of_files(
        cls,
        where: str | os.PathLike | Iterable[str | os.PathLike],
        shortest_side: int,
        class_names: Sequence[str] = (),
    ) -> "Images":
        """Return the images of a folder, a pattern, a .txt list or several paths.

        Args:
          where: as of `find_files`, or several such.
          shortest_side: in pixels, that images are decoded at.
          class_names: the label of an image is that of its folder's name, if it is one
            of these.

        Raises:
          FileNotFoundError: if there are none.
        """
        if isinstance(where, str | os.PathLike):
            paths = find_files(where)
        else:
            paths = [path for one in where for path in find_files(one)]
        labels = {name: label for label, name in enumerate(class_names)}

        def read(position: int) -> np.ndarray:
            try:
                return decode.load_pixels(paths[position].read_bytes(), shortest_side)
            except (OSError, UnreadableImage) as error:
                raise UnreadableImage(
                    f"{paths[position]} cannot be read as an image: {error}"
                ) from error

        return cls(
            [str(path) for path in paths],
            [labels.get(class_name(path.parent.name)) for path in paths],
            read,
            lambda position: decode.upright_size(paths[position]),
        )


def find_files(where: str | os.PathLike) -> list[pathlib.Path]:
    """List the image files of a folder and those below it, of a pattern or of a list.

    Args:
      where: a folder, an image, a pattern with `*`, `?` or `**`, or a .txt file with a
        path a line, relative to the file.

    Returns:
      Paths in order of their names; those of a list in its order.

    Raises:
      FileNotFoundError: if there is no such file or folder, or no image in it.
    """
    path = pathlib.Path(where).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*"))
        paths = [file for file in files if file.suffix.lower() in SUFFIXES]
    elif path.suffix.lower() == ".txt" and path.is_file():
        lines = (line.strip() for line in path.read_text().splitlines())
        paths = [path.parent / line for line in lines if line]
    elif path.is_file():
        paths = [path]
    else:
        matches = sorted(glob.glob(str(path), recursive=True))
        paths = [pathlib.Path(match) for match in matches if os.path.isfile(match)]
    if not paths:
        raise FileNotFoundError(
            f"no image in {where}; expected a folder, a pattern or a .txt list of "
            f"files that end in {', '.join(SUFFIXES)}"
        )
    return paths
