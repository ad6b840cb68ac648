"""Pictures of your own: a folder for each class.

    source = load("photos/")

`photos/<class>/*.jpg` is split by `split`, class by class; a tree that has its parts as
folders, `photos/train/<class>/*.jpg` and `val` or `validation` and `test` beside it,
keeps them. A class has its folder's name.
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

from seeflower_jax.data.photos import SUFFIXES
from seeflower_jax.data.source import ImageSource

DEFAULT_SPLIT = "70/15/15"
# The parts of a tree by the names of their folders, in any case.
FOLDERS = {"train": "train", "val": "validation", "validation": "validation"}
FOLDERS |= {"valid": "validation", "test": "test"}
_PARTS = ("train", "validation", "test")
_MAX_LISTED = 10


@dataclasses.dataclass(frozen=True)
class _File:
    key: str  # its path in the tree
    class_name: str
    part: str
    size: int
    modified: int


def class_name(folder: str) -> str:
    """The class of a folder's name; letters with accents have more than one encoding.

    Raises:
      ValueError: for a name that is no text.
    """
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of the folder {ascii(folder)} is not UTF-8; rename it"
        ) from error
    return unicodedata.normalize("NFC", folder)


def load(dir: str | os.PathLike, split: str = "official") -> ImageSource:
    """A tree of pictures as an `ImageSource`.

    Args:
      dir: the folder.
      split: 'official' takes the parts that are folders of the tree; without any, it
        is `DEFAULT_SPLIT`. '80/10/10' takes so many percent of each class for training,
        validation and test, '80/10/10:1' others. Each part that is not 0 gets at least
        one picture of a class, first training, then test, as long as there are any. The
        part of a picture is a function of the names of the files in its folder.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: for another kind of tree, names the folder, and for an unknown split.
    """
    if not dir:
        raise ValueError("data.source 'folder' needs --config.data.dir=DIR")
    root = pathlib.Path(dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; expected one with a folder for each class"
        )
    folders = _part_folders(root)
    if folders and split != "official":
        raise ValueError(
            f"{root} has its parts as folders, {', '.join(folders)}, and cannot be "
            f"split by {split!r}: leave data.split at 'official'"
        )
    if folders:
        files = [
            file
            for folder, part in folders.items()
            for file in _files(root, f"{folder}/", part)
        ]
    else:
        shares = _shares(DEFAULT_SPLIT if split == "official" else split)
        files = _split(_files(root, "", ""), *shares)
    class_names = tuple(sorted({f.class_name for f in files if f.part == "train"}))
    if len(class_names) < 2:
        raise ValueError(f"{root} has the classes {class_names}; expected two or more")
    labels = {name: label for label, name in enumerate(class_names)}
    for file in files:
        if file.class_name not in labels:
            raise ValueError(
                f"{root / file.key} has a class without a folder in train, where there "
                f"are {len(labels)}; add {file.class_name!r} there or remove it here"
            )
    parts = np.array([file.part for file in files])
    stamps = [(file.key, file.size, file.modified) for file in files]
    return ImageSource(
        name="folder_" + re.sub(r"[^A-Za-z0-9-]+", "_", root.resolve().name)[:40],
        fingerprint=hashlib.sha256(repr(stamps).encode()).hexdigest()[:12],
        class_names=class_names,
        keys=tuple(file.key for file in files),
        labels=np.array([labels[file.class_name] for file in files], np.int32),
        splits={
            part: np.flatnonzero(parts == part).astype(np.int32)
            for part in _PARTS
            if part in parts
        },
        read=lambda index: (root / files[index].key).read_bytes(),
    )


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """What is in a folder, by name, but hidden things."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def _part_folders(root: pathlib.Path) -> dict[str, str]:
    """{folder: part} of a tree that has its parts as folders; otherwise empty.

    `train` may also be a class; as a part, it has folders.
    """
    named = {
        entry.name: FOLDERS[entry.name.lower()]
        for entry in _entries(root)
        if entry.is_dir()
        and entry.name.lower() in FOLDERS
        and any(inner.is_dir() for inner in _entries(pathlib.Path(entry)))
    }
    if not named:
        return {}
    others = [e.name for e in _entries(root) if e.is_dir() and e.name not in named]
    parts = list(named.values())
    if "train" not in parts or len(set(parts)) < len(parts) or others:
        raise ValueError(
            f"{root} has the parts {', '.join(named)} as folders"
            + (f" and beside them {', '.join(others[:_MAX_LISTED])}" if others else "")
            + "; expected train, and val or validation and test where there are any, "
            "each with a folder for each class, or such folders alone"
        )
    return named


def _files(root: pathlib.Path, prefix: str, part: str) -> list[_File]:
    """The pictures of the class folders in `root / prefix`, by class and name."""
    files, ignored = [], 0
    for folder in _entries(root / prefix):
        if not folder.is_dir():
            ignored += folder.name.lower().endswith(SUFFIXES)
            continue
        name = class_name(folder.name)
        pictures = [
            _File(f"{prefix}{folder.name}/{e.name}", name, part, *_stamp(e))
            for e in _entries(pathlib.Path(folder))
            if e.name.lower().endswith(SUFFIXES) and e.is_file()
        ]
        if not pictures:
            raise ValueError(
                f"{folder.path} has no picture, no file that ends in "
                f"{', '.join(SUFFIXES)}; add some or remove the folder"
            )
        files += pictures
    if not files:
        raise ValueError(
            f"{root / prefix} has no class folders, and {ignored} pictures; expected a "
            "folder for each class with its pictures in it"
        )
    if ignored:
        logging.warning("%d pictures in %s have no class", ignored, root / prefix)
    return files


def _stamp(entry: os.DirEntry) -> tuple[int, int]:
    stat = entry.stat()
    return stat.st_size, stat.st_mtime_ns


def _shares(split: str) -> tuple[list[int], int]:
    """Percentages of `_PARTS` and the seed that '80/10/10:1' names."""
    match = re.fullmatch(r"(\d+)/(\d+)/(\d+)(?::(\d+))?", split)
    shares = [int(share) for share in match.groups()[:3]] if match else []
    if sum(shares) != 100 or not shares[0]:
        raise ValueError(
            f"unknown split {split!r} of a folder; expected 'official' or percentages "
            "for training, validation and test as '80/10/10', with a seed '80/10/10:1'"
        )
    return shares, int(match[4] or 0)


def _split(files: list[_File], shares: list[int], seed: int) -> list[_File]:
    """Gives each picture its part, class by class."""
    classes, part_of, lacking = collections.defaultdict(list), {}, []
    for file in files:
        classes[file.class_name].append(file.key)
    for name, keys in classes.items():
        keys.sort(key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
        spare, counts = len(keys) - 1, {}  # one is for training
        for part in ("test", "validation"):
            share = shares[_PARTS.index(part)]
            wanted = max(int(len(keys) * share / 100 + 0.5), share > 0)
            counts[part] = min(wanted, spare)
            spare -= counts[part]
            if wanted > counts[part] == 0:
                lacking.append(f"{name} ({part})")
        drawn = ["test"] * counts["test"] + ["validation"] * counts["validation"]
        drawn += ["train"] * (len(keys) - len(drawn))
        part_of |= zip(keys, drawn, strict=True)
    if lacking:
        logging.warning(
            "classes with too few pictures for each part: %s%s",
            ", ".join(lacking[:_MAX_LISTED]),
            f" and {len(lacking) - _MAX_LISTED} more" * (len(lacking) > _MAX_LISTED),
        )
    return [dataclasses.replace(file, part=part_of[file.key]) for file in files]
