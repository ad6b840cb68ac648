"""Load a data set of your own images: a folder for each class.

    source = load("photos/")

`load` splits a tree `photos/<class>/*.jpg` class by class, as `split` specifies. A tree
may also have a folder for each split: `photos/train/<class>/*.jpg`. The folders next to
`train` are `val` or `validation`, and `test`. `split_folders` accepts further names.
`load` keeps the splits of such a tree. Sub-folders of a class belong to the class.

The name of a class is the name of its folder, unless `class_names.json` or
`cat_to_name.json` gives another name. See `class_names`.
"""

import collections
import dataclasses
import hashlib
import logging
import os
import pathlib
import re

import numpy as np

from seeflower_jax.data import class_names, files
from seeflower_jax.data.files import LeftOut
from seeflower_jax.data.source import ImageSource, fingerprint, stamp
from seeflower_jax.data.split_folders import split_folders, split_of

DEFAULT_SPLIT = "70/15/15"
_SPLITS = ("train", "validation", "test")
_MAX_LISTED = 10


@dataclasses.dataclass(frozen=True)
class _File:
    """An image file.

    Attributes:
      key: the path of the file in the tree.
      class_name: the name of its class.
      split: 'train', 'validation' or 'test'; '' before it is assigned.
      stamp: its size and the time of its last change, see `source.stamp`.
    """

    key: str
    class_name: str
    split: str
    stamp: tuple[int, int]


def class_name(folder: str) -> str:
    """Return the name of the class of a folder.

    Raises:
      ValueError: if the name of the folder is not UTF-8.
    """
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of the folder {ascii(folder)} is not UTF-8; rename it"
        ) from error
    return class_names.composed(folder)


def load(dir: str | os.PathLike, split: str = "official") -> ImageSource:
    """Return a tree of images as an `ImageSource`.

    Args:
      dir: the root folder of the tree.
      split: 'official' keeps the splits that are folders of the tree. If the tree has
        no such folders, 'official' means `DEFAULT_SPLIT`. '80/10/10' draws these
        percentages of each class for training, validation and test. '80/10/10:1' sets
        the seed to 1; the default seed is 0. Each split of more than 0 % gets at least
        one image of each class. If a class has too few images, training comes first,
        then test. The split of an image depends only on the name of its class folder
        and on the file names in this folder.

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
    images = _split_files(root, split)
    labels = _labels_by_class(root, images)
    names = class_names.names_by_folder(_places_of_names(root, images), list(labels))
    split_of_file = np.array([file.split for file in images])
    folder = str(root.resolve())
    return ImageSource(
        name="folder_" + re.sub(r"[^A-Za-z0-9-]+", "_", root.resolve().name)[:40],
        fingerprint=fingerprint(folder, [(file.key, file.stamp) for file in images]),
        class_names=tuple(names.get(name, name) for name in labels),
        keys=tuple(file.key for file in images),
        labels=np.array([labels[file.class_name] for file in images], np.int32),
        splits={
            name: np.flatnonzero(split_of_file == name).astype(np.int32)
            for name in _SPLITS
            if name in split_of_file
        },
        read=lambda index: (root / images[index].key).read_bytes(),
        folder=folder,
    )


def _places_of_names(root: pathlib.Path, images: list[_File]) -> list[pathlib.Path]:
    """Return the folders that may have a file with names of classes."""
    parts = next(f.key.split("/") for f in images if f.split == "train")
    beside = [root / parts[0]] if parts[0] != parts[-2] and split_of(parts[0]) else []
    return [*beside, root, root.resolve().parent]


def _split_files(root: pathlib.Path, split: str) -> list[_File]:
    """Return the files of a tree with their splits."""
    left_out = LeftOut()
    folders = split_folders(root, left_out)
    if not folders:
        percentages, seed = _parse_split(
            DEFAULT_SPLIT if split == "official" else split
        )
        found = _list_files(root, "", "", left_out)
    elif split != "official":
        raise ValueError(
            f"{root} has a folder for each split ({', '.join(folders)}), so data.split "
            f"cannot be {split!r}: leave data.split at 'official'"
        )
    else:
        found = [
            file
            for folder, name in folders.items()
            for file in _list_files(root, f"{folder}/", name, left_out)
        ]
        for folder, name in folders.items():
            if name not in {file.split for file in found}:
                logging.warning(
                    "%s has no images, so there is no %s split", root / folder, name
                )
    left_out.log(root)
    return found if folders else _assign_splits(found, percentages, seed)


def _labels_by_class(root: pathlib.Path, images: list[_File]) -> dict[str, int]:
    """Return {class name: label} of the classes with training images, by name."""
    folders = sorted({file.class_name for file in images if file.split == "train"})
    if len(folders) < 2:
        raise ValueError(
            f"{root} has the classes {folders}; expected at least two classes"
        )
    labels = {name: label for label, name in enumerate(folders)}
    for file in images:
        if file.class_name not in labels:
            raise ValueError(
                f"{root / file.key} is of class {file.class_name!r}, which is not one "
                f"of the {len(labels)} classes in train; add a folder "
                f"{file.class_name!r} to train or remove the file"
            )
    return labels


def _list_files(
    root: pathlib.Path, prefix: str, split: str, left_out: LeftOut
) -> list[_File]:
    """List the images of the class folders in `root / prefix`, by class and name."""
    found, loose = [], 0
    for folder in files.visible_entries(root / prefix, left_out):
        if not files.is_folder(folder):
            loose += _is_loose_image(folder, left_out)
            continue
        name, in_folder = class_name(folder.name), LeftOut()
        images = [
            _File(f"{prefix}{folder.name}/{key}", name, split, stamp(entry))
            for key, entry in files.image_files(folder.path, in_folder)
        ]
        left_out.update(in_folder)
        if not images and split in ("", "train"):
            raise ValueError(
                f"{folder.path} has no images (files that end in "
                f"{files.COMMON_SUFFIXES}){in_folder.only()}; "
                "add images or remove the folder"
            )
        found += images
    if not found and split in ("", "train"):
        raise ValueError(
            f"{root / prefix} has no class folders and {loose} images; expected a "
            "folder for each class with its images in it"
        )
    _check_depth(root, prefix, found)
    if loose:
        left_out["in no folder of a class"] += loose
    return found


def _is_loose_image(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    """Return whether a file next to class folders is an image; count other files."""
    reason = files.why_not_an_image(entry.name, is_file=True)
    if reason and entry.name not in class_names.FILE_NAMES:
        left_out[reason] += 1
    return not reason


def _check_depth(root: pathlib.Path, prefix: str, images: list[_File]) -> None:
    """Check that the sub-folders of class folders are not the classes.

    They may be if all images are in them, unless all have the same name, as in
    `rose/images/` and `tulip/images/`.

    Raises:
      ValueError: if the sub-folders may be the classes.
    """
    parts = [image.key.removeprefix(prefix).split("/") for image in images]
    deep = [path for path in parts if len(path) > 2]
    if not deep:
        return
    inner_names = {path[1] for path in deep}
    tops = {path[0] for path in parts}
    is_inside = (
        len(inner_names) == 1 < len(tops)
        and not split_of(min(inner_names))
        and max(map(len, parts)) == 3  # There are no folders below, such as classes.
    )
    if len(deep) < len(parts) or is_inside:
        folders = sorted({path[0] for path in deep})
        logging.info(
            "%s: %d images in sub-folders belong to the classes %s%s",
            *(root / prefix, len(deep), ", ".join(folders[:_MAX_LISTED])),
            ", ..." if len(folders) > _MAX_LISTED else "",
        )
        return
    top, inner = deep[0][:2]
    if split_of(inner):
        advice = f"expected {inner}/{top} instead of {top}/{inner}"
    elif prefix:
        advice = (
            f"move the folders of the classes from {root / prefix / top} up one level"
        )
    else:
        advice = f"for the classes in {top}, give --config.data.dir={root / top}"
    raise ValueError(
        f"{root / prefix} has images only in sub-folders of its folders, such as "
        f"{'/'.join(deep[0])}, so its folders are not classes; {advice}"
    )


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


def _digest(text: str) -> bytes:
    """Return the SHA-256 of a text, which is the same for all encodings of its letters.

    The names of files in the text need not be UTF-8.
    """
    text = class_names.composed(text)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _assign_splits(
    images: list[_File], percentages: dict[str, int], seed: int
) -> list[_File]:
    """Draw a split for each file, class by class, and return the files with splits."""
    keys_by_class: dict[str, list[str]] = collections.defaultdict(list)
    split_of_key: dict[str, str] = {}
    incomplete = []  # "class (split)" for each split without images of a class
    for file in images:
        keys_by_class[file.class_name].append(file.key)
    for name, keys in keys_by_class.items():
        keys.sort(key=lambda key: _digest(f"{seed}/{key}"))
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
    return [dataclasses.replace(file, split=split_of_key[file.key]) for file in images]
