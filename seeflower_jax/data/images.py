"""List images with names and labels: a split, a folder or a list of paths.

images = Images.of_files("photos/", shortest_side=320)     # or "photos/*.jpg", ...
images = dataset.images("test")                            # dataset: a `Dataset`
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
    """A list of images that are read one at a time.

    Attributes:
      names: name of each image in outputs and records.
      labels: class index of each image, None if it is not known.
      read: function from a position to the decoded and resized pixels. It raises
        `UnreadableImage` if the image cannot be read.
      original_size: function from a position to the (width, height) in pixels of the
        upright image before it was resized.
    """

    names: Sequence[str]
    labels: Sequence[int | None]
    read: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    original_size: Callable[[int], tuple[int, int]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: slice | Sequence[int]) -> "Images":
        """Return the images of a slice, or of positions in any order."""
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
          where: what `find_files` takes, or several of them.
          shortest_side: shortest side of the decoded images in pixels.
          class_names: names of the classes, in the order of their labels. An image gets
            a label if its folder has the name of a class.

        Raises:
          FileNotFoundError: if there are no images.
        """
        if isinstance(where, str | os.PathLike):
            paths = find_files(where)
        else:
            paths = [path for one in where for path in find_files(one)]
        if not paths:
            raise FileNotFoundError("no image was given; expected files or folders")
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
            [labels.get(_folder_name(path)) for path in paths],
            read,
            lambda position: decode.upright_size(paths[position]),
        )


def _folder_name(path: pathlib.Path) -> str:
    """Return the class that the folder of a file names; '' if it names none."""
    try:
        return class_name(path.parent.name)
    except ValueError:  # the name is not text, so it is the name of no class
        return ""


def find_files(where: str | os.PathLike) -> list[pathlib.Path]:
    """List the image files of a folder and its subfolders, of a pattern or of a list.

    Args:
      where: a folder, an image, a pattern with `*`, `?` or `**`, or a .txt file. Each
        line of a .txt file has a path relative to the file.

    Returns:
      Paths sorted by name. The paths of a .txt file keep their order.

    Raises:
      FileNotFoundError: if the file or folder does not exist or has no image.
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
