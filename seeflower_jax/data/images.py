"""List images with names and labels: a split, a folder or a list of paths.

images = Images.of_files("photos/", shortest_side=320)     # or "photos/*.jpg", ...
images = dataset.images("test")                            # dataset: a `Dataset`
pixels = images.read(0)           # uint8 [h, w, 3]
first = images[:100]
"""

import contextlib
import dataclasses
import fnmatch
import functools
import glob
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from seeflower_jax import hints
from seeflower_jax.data import class_names, decode, files
from seeflower_jax.data.files import LeftOut
from seeflower_jax.data.image_folder import class_name

Pixels = UInt8[np.ndarray, "h w 3"]
Size = tuple[int, int]  # (width, height)


@dataclasses.dataclass(frozen=True)
class Images:
    """A list of images that are read one at a time.

    Attributes:
      names: name of each image in outputs and records.
      labels: class index of each image, or None if it is not known.
      read: function from a position to the decoded and resized pixels. It raises
        `UnreadableImage` if the image cannot be read.
      original_size: function from a position to the (width, height) in pixels of the
        upright image before it was resized.
      read_both: function from a position to the results of `read` and `original_size`,
        if it is faster than both.
      are_files: whether the names are the paths of files.
    """

    names: Sequence[str]
    labels: Sequence[int | None]
    read: Callable[[int], Pixels]
    original_size: Callable[[int], Size]
    read_both: Callable[[int], tuple[Pixels, Size]] | None = None
    are_files: bool = False

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
            lambda position: self.read_with_size(positions[position]),
            self.are_files,
        )

    def read_with_size(self, position: int) -> tuple[Pixels, Size]:
        """Return the pixels of an image and its original size."""
        if self.read_both is not None:
            return self.read_both(position)
        return self.read(position), self.original_size(position)

    @classmethod
    def of_files(
        cls,
        where: str | os.PathLike | Iterable[str | os.PathLike],
        shortest_side: int,
        class_names: Sequence[str] = (),
    ) -> "Images":
        """Return the images of a folder, a pattern, a .txt list or several paths.

        Args:
          where: a path or pattern for `find_files`, or several.
          shortest_side: shortest side of the decoded images in pixels.
          class_names: names of the classes, in the order of their labels. An image gets
            a label if its folder, or the entry of its folder in `class_names.json`, is
            the name of a class.

        Raises:
          FileNotFoundError: if there are no images.
          ValueError: if a .txt list is not text, or if a path is empty.
        """
        places = [where] if isinstance(where, str | os.PathLike) else list(where)
        paths, labels = [], []
        index_of = {name: label for label, name in enumerate(class_names)}
        label_of = functools.cache(functools.partial(_label, index_of))
        for place in places:
            in_place = find_files(place)
            top = _resolve(place)
            paths += in_place
            labels += [
                label_of(path.parent, top if top in path.parents else path.parent)
                for path in in_place
            ]
        if not paths:
            raise FileNotFoundError("no image was given; expected files or folders")

        def read_both(position: int) -> tuple[Pixels, Size]:
            path = paths[position]
            return decode.load_with_size(path.read_bytes, shortest_side, path)

        def original_size(position: int) -> Size:
            path = paths[position]
            return decode.upright_size(lambda: path.open("rb"), path)

        return cls(
            [str(path) for path in paths],
            labels,
            lambda position: read_both(position)[0],
            original_size,
            read_both,
            are_files=True,
        )


def _label(
    index_of: Mapping[str, int], folder: pathlib.Path, top: pathlib.Path
) -> int | None:
    """Return the label of the first folder, from `folder` up to `top`, with a class."""
    while True:
        for name in _possible_classes(folder):
            if name in index_of:
                return index_of[name]
        if folder == top:
            return None
        folder = folder.parent


def _possible_classes(folder: pathlib.Path) -> Iterator[str]:
    """Yield the possible classes of a folder, by its name or a file of names."""
    folder = pathlib.Path(os.path.abspath(folder))  # `.` has no name
    try:
        own = class_name(folder.name)
        yield own
        # The file is next to the folder, above it, or above the folder of a split.
        places = list(folder.parents)[:3]
        name = class_names.name_of_folder(places, own)
    except ValueError:  # The name is not text.
        return
    if name is not None:
        yield name
        yield f"{name} ({own})"  # if several folders have this name


def find_files(where: str | os.PathLike) -> list[pathlib.Path]:
    """List the image files of a folder and its subfolders, of a pattern or of a list.

    For a folder or a pattern, the result has only images, by the rule of `files`. A
    line of the log counts the other files. The path of a single file is always
    returned.

    Args:
      where: a folder, an image, a pattern with `*`, `?` or `**`, or a .txt file. The
        path of a pattern may go through a folder such as "photos [2024]". Each line of
        a .txt file has a path relative to the file.

    Returns:
      Paths sorted by name. The paths of a .txt file keep their order.

    Raises:
      FileNotFoundError: if the file or folder does not exist or has no image.
      ValueError: if a .txt file is not text, or if `where` is empty.
    """
    if not os.fspath(where):  # `Path` would take it for the current folder.
        raise ValueError(f"expected a path, got {where!r}")
    path, left_out = _resolve(where), LeftOut()
    if path.is_dir():
        paths = [path / key for key, _ in files.image_files(path, left_out)]
    elif path.suffix.lower() == ".txt" and path.is_file():
        paths = [_resolve(line, path.parent) for line in files.read_list(path)]
    elif path.is_file():
        paths = [path]
    else:
        paths = _matching_images(path, left_out)
    if not paths:
        raise FileNotFoundError(
            f"no image in {where}{left_out.only()}; expected a "
            "folder, a pattern or a .txt list of files that end in "
            f"{files.COMMON_SUFFIXES}"
        )
    left_out.log(where)
    return paths


def find_file(where: str | os.PathLike) -> pathlib.Path:
    """Return the path of a single file, which is never read as a pattern or a list.

    Raises:
      FileNotFoundError: if the file does not exist.
    """
    path = _resolve(where)
    if not path.exists():
        hint = hints.did_you_mean_path(path)
        raise FileNotFoundError(
            f"{where} does not exist; expected the path of an image file{hint}"
        )
    return path


def _resolve(where: str | os.PathLike, folder: str | os.PathLike = "") -> pathlib.Path:
    """Return a path relative to a folder, with ~ as the home folder of a user.

    ~ is a part of the name if the path exists, or if no user has the name after ~.
    """
    path = pathlib.Path(folder, where)
    if not os.fspath(where).startswith("~") or os.path.exists(path):
        return path
    with contextlib.suppress(RuntimeError):  # No user has the name.
        return pathlib.Path(folder, pathlib.Path(where).expanduser())
    return path


def _matching_images(pattern: pathlib.Path, left_out: LeftOut) -> list[pathlib.Path]:
    """Return the images that a pattern matches; count the other matches.

    Raises:
      FileNotFoundError: if the pattern is a path that does not exist.
    """
    root = pathlib.Path()
    for part in pattern.parts:
        # A folder may have the name "photos [2024]", which is also a pattern.
        if glob.has_magic(part) and not os.path.exists(root / part):
            break
        root /= part
    parts = pattern.parts[len(root.parts) :]
    if not parts and not os.path.lexists(root):
        hint = hints.did_you_mean_path(root)
        raise FileNotFoundError(f"{root} does not exist{hint}")
    if "**" not in parts:
        escaped = os.path.join(glob.escape(str(root)), *parts)
        matches = list(map(pathlib.Path, glob.glob(escaped)))
    elif root.is_dir():  # `glob` follows circular links.
        keys = (key for key, _ in files.walk(root, left_out))
        matches = [root / key for key in keys if _fits(key.split("/"), parts)]
    else:
        matches = []
    paths = []
    for match in sorted(matches, key=str):
        if any(map(files.is_hidden, match.parts[len(root.parts) :])):
            reason = "hidden"
        elif os.path.isdir(match):
            reason = "folders (give a folder itself for its images)"
        else:
            reason = files.why_not_an_image(match.name, os.path.isfile(match))
        if reason:
            left_out[reason] += 1
        else:
            paths.append(match)
    return paths


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the names of a path fit the parts of a pattern, as in `glob`."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[i:], parts[1:]) for i in range(len(names) + 1))
    fits = bool(names) and fnmatch.fnmatch(names[0], parts[0])
    return fits and _fits(names[1:], parts[1:])
