"""Load a data set of your own images: a folder for each class.

    source = load("photos/")

`load` splits a tree `photos/<class>/*.jpg` class by class, as `split` says. A tree may
also have a folder for each split: `photos/train/<class>/*.jpg`. The folders next to
`train` are `val` or `validation`, and `test`. `load` keeps the splits of such a tree.
The name of a class is the name of its folder.
"""

import collections
import dataclasses
import hashlib
import logging
import os
import pathlib
import re
import unicodedata

import numpy as np

from seeflower_jax.data.decode import SUFFIXES
from seeflower_jax.data.source import ImageSource

DEFAULT_SPLIT = "70/15/15"
# {name of a folder in lower case: split}
FOLDERS = {"train": "train", "val": "validation", "validation": "validation"}
FOLDERS |= {"valid": "validation", "test": "test"}
_SPLITS = ("train", "validation", "test")
_MAX_LISTED = 10


@dataclasses.dataclass(frozen=True)
class _File:
    """An image file.

    Attributes:
      key: the path of the file in the tree.
      class_name: the name of its class.
      split: 'train', 'validation' or 'test'; '' before it is assigned.
      size: the size of the file in bytes.
      modified: the time of the last change in nanoseconds.
    """

    key: str
    class_name: str
    split: str
    size: int
    modified: int


def class_name(folder: str) -> str:
    """Return the name of the class of a folder.

    A letter with an accent has several encodings. All encodings give the same class.

    Raises:
      ValueError: if the name of the folder is not UTF-8.
    """
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of the folder {ascii(folder)} is not UTF-8; rename it"
        ) from error
    return unicodedata.normalize("NFC", folder)


def load(dir: str | os.PathLike, split: str = "official") -> ImageSource:
    """Return a tree of images as an `ImageSource`.

    Args:
      dir: the root folder of the tree.
      split: 'official' keeps the splits that are folders of the tree. If the tree has
        no such folders, 'official' stands for `DEFAULT_SPLIT`. '80/10/10' draws these
        percentages of each class for training, validation and test. '80/10/10:1' sets
        the seed to 1; the default seed is 0. Each split of more than 0 % gets at least
        one image of each class. If a class has too few images, training comes first,
        then test. The split of an image depends only on the file names in its folder.

    Raises:
      FileNotFoundError: if the folder does not exist.
      ValueError: if the tree has another layout, or if `split` is unknown.
    """
    if not dir:
        raise ValueError("data.source 'folder' needs --config.data.dir=DIR")
    root = pathlib.Path(dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"folder {root} does not exist; expected a folder with a folder for each "
            "class"
        )
    files = _split_files(root, split)
    labels = _labels_by_class(root, files)
    split_of_file = np.array([file.split for file in files])
    stamps = [(file.key, file.size, file.modified) for file in files]
    return ImageSource(
        name="folder_" + re.sub(r"[^A-Za-z0-9-]+", "_", root.resolve().name)[:40],
        fingerprint=hashlib.sha256(repr(stamps).encode()).hexdigest()[:12],
        class_names=tuple(labels),
        keys=tuple(file.key for file in files),
        labels=np.array([labels[file.class_name] for file in files], np.int32),
        splits={
            name: np.flatnonzero(split_of_file == name).astype(np.int32)
            for name in _SPLITS
            if name in split_of_file
        },
        read=lambda index: (root / files[index].key).read_bytes(),
    )


def _split_files(root: pathlib.Path, split: str) -> list[_File]:
    """Return the files of a tree with their splits."""
    folders = _split_folders(root)
    if not folders:
        percentages, seed = _parse_split(
            DEFAULT_SPLIT if split == "official" else split
        )
        return _assign_splits(_list_files(root, "", ""), percentages, seed)
    if split != "official":
        raise ValueError(
            f"{root} has a folder for each split ({', '.join(folders)}), so data.split "
            f"cannot be {split!r}: leave data.split at 'official'"
        )
    return [
        file
        for folder, name in folders.items()
        for file in _list_files(root, f"{folder}/", name)
    ]


def _labels_by_class(root: pathlib.Path, files: list[_File]) -> dict[str, int]:
    """Return {class name: label} of the classes with training images, by name."""
    class_names = sorted({file.class_name for file in files if file.split == "train"})
    if len(class_names) < 2:
        raise ValueError(
            f"{root} has the classes {class_names}; expected at least two classes"
        )
    labels = {name: label for label, name in enumerate(class_names)}
    for file in files:
        if file.class_name not in labels:
            raise ValueError(
                f"{root / file.key} is of class {file.class_name!r}, which is not one "
                f"of the {len(labels)} classes in train; add a folder "
                f"{file.class_name!r} to train or remove the file"
            )
    return labels


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """Return the files and folders in a folder, sorted by name, without hidden ones."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _split_folders(root: pathlib.Path) -> dict[str, str]:
    """Return {folder: split} of a tree with a folder for each split, else {}.

    `train` may also be the name of a class. The folder of a split contains folders. The
    folder of a class contains none.
    """
    folders = [entry for entry in _entries(root) if entry.is_dir()]
    splits = {
        folder.name: FOLDERS[folder.name.lower()]
        for folder in folders
        if folder.name.lower() in FOLDERS
        and any(entry.is_dir() for entry in _entries(pathlib.Path(folder)))
    }
    if not splits:
        return {}
    others = [folder.name for folder in folders if folder.name not in splits]
    names = list(splits.values())
    if "train" not in names or len(set(names)) < len(names) or others:
        listed = f" and also {', '.join(others[:_MAX_LISTED])}" if others else ""
        raise ValueError(
            f"{root} has the folders of splits {', '.join(splits)}{listed}; expected "
            "train, and optionally val or validation, and test, each with a folder for "
            "each class; or folders of classes only"
        )
    return splits


def _list_files(root: pathlib.Path, prefix: str, split: str) -> list[_File]:
    """List the images of the class folders in `root / prefix`, by class and name."""
    files, ignored = [], 0
    for folder in _entries(root / prefix):
        if not folder.is_dir():
            ignored += folder.name.lower().endswith(SUFFIXES)
            continue
        name = class_name(folder.name)
        images = [
            _File(f"{prefix}{folder.name}/{entry.name}", name, split, *_stamp(entry))
            for entry in _entries(pathlib.Path(folder))
            if entry.name.lower().endswith(SUFFIXES) and entry.is_file()
        ]
        if not images:
            raise ValueError(
                f"{folder.path} has no images (files that end in "
                f"{', '.join(SUFFIXES)}); add images or remove the folder"
            )
        files += images
    if not files:
        raise ValueError(
            f"{root / prefix} has no class folders and {ignored} images; expected a "
            "folder for each class with its images in it"
        )
    if ignored:
        logging.warning("ignored %d images without class in %s", ignored, root / prefix)
    return files


def _stamp(entry: os.DirEntry) -> tuple[int, int]:
    stat = entry.stat()
    return stat.st_size, stat.st_mtime_ns


def _parse_split(split: str) -> tuple[dict[str, int], int]:
    """Return the percentage of each split and the seed of a text like '80/10/10:1'."""
    match = re.fullmatch(r"(\d+)/(\d+)/(\d+)(?::(\d+))?", split)
    percentages = [int(share) for share in match.groups()[:3]] if match else []
    if match is None or sum(percentages) != 100 or not percentages[0]:
        raise ValueError(
            f"unknown split {split!r} of a folder; expected 'official' or percentages "
            "for training, validation and test that sum to 100, such as '80/10/10', "
            "with an optional seed '80/10/10:1'"
        )
    return dict(zip(_SPLITS, percentages, strict=True)), int(match[4] or 0)


def _assign_splits(
    files: list[_File], percentages: dict[str, int], seed: int
) -> list[_File]:
    """Draw a split for each file, class by class, and return the files with splits."""
    keys_by_class: dict[str, list[str]] = collections.defaultdict(list)
    split_of_key: dict[str, str] = {}
    incomplete = []  # "class (split)" for each split without images of a class
    for file in files:
        keys_by_class[file.class_name].append(file.key)
    for name, keys in keys_by_class.items():
        keys.sort(key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
        available, counts = len(keys) - 1, {}  # training keeps at least one image
        for split in ("test", "validation"):
            percentage = percentages[split]
            target = max(int(len(keys) * percentage / 100 + 0.5), percentage > 0)
            counts[split] = min(target, available)
            available -= counts[split]
            if target > counts[split] == 0:
                incomplete.append(f"{name} ({split})")
        drawn = ["test"] * counts["test"] + ["validation"] * counts["validation"]
        drawn += ["train"] * (len(keys) - len(drawn))
        split_of_key |= zip(keys, drawn, strict=True)
    if incomplete:
        more = len(incomplete) - _MAX_LISTED
        logging.warning(
            "classes with too few images for each split: %s%s",
            ", ".join(incomplete[:_MAX_LISTED]),
            f" and {more} more" * (more > 0),
        )
    return [dataclasses.replace(file, split=split_of_key[file.key]) for file in files]
