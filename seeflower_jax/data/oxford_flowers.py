"""Load Oxford 102 Flowers (Nilsback and Zisserman 2008) from one of three layouts.

    source = load()                     # downloads the official files
    source = load("flowers/")           # 102flowers.tgz or jpg/, and the two .mat files
    source = load("tensorflow_datasets/")    # oxford_flowers102/2.1.1 in array_record

All layouts give the same images, in the order of their ids, and the same splits:

    official   train 1,020    validation 1,020   test 6,149
    trainval   train 2,040                       test 6,149
    reversed   train 6,149    validation 1,020   test 1,020
"""

import dataclasses
import logging
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Int32

from seeflower_jax import download, hints
from seeflower_jax.data import mat_files
from seeflower_jax.data.oxford_names import CLASS_NAMES
from seeflower_jax.data.source import ImageSource, fingerprint, stamp
from seeflower_jax.records import files

NAME = "oxford_flowers102"
BASE_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
SHA256 = {
    "102flowers.tgz": (
        "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246"
    ),
    "imagelabels.mat": (
        "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d"
    ),
    "setid.mat": ("46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd"),
}
SPLITS = {
    "official": {"train": "trnid", "validation": "valid", "test": "tstid"},
    "trainval": {"train": "trnid+valid", "test": "tstid"},
    "reversed": {"train": "tstid", "validation": "valid", "test": "trnid"},
}
# {part: (number of images, minimum and maximum number of images of a class)}
_COUNTS = {"trnid": (1020, 10, 10), "valid": (1020, 10, 10), "tstid": (6149, 20, 238)}
_TFDS_SPLITS = {"trnid": "train", "valid": "validation", "tstid": "test"}
_DEFAULT_DIR = "~/.cache/seeflower_jax"

# The parts of setid.mat: {'trnid', 'valid', 'tstid': indices of images, from 0}.
PartIndices: TypeAlias = dict[str, Int32[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True)
class _Files:
    """The data set in one of its layouts.

    Attributes:
      labels: the label of each image, from 0.
      indices: the indices of the images of each official part.
      stamps: (name, `source.stamp`) of each file.
      read: a function from an index to the encoded image.
    """

    labels: Int32[np.ndarray, "n"]
    indices: PartIndices
    stamps: list[tuple[str, tuple[int, int]]]
    read: Callable[[int], bytes]


def load(
    dir: str | os.PathLike | None = None,
    split: str = "official",
    verify: bool = True,
    cache_dir: str | os.PathLike | None = None,
) -> ImageSource:
    """Return the data set as an `ImageSource`.

    Args:
      dir: a folder with `imagelabels.mat`, `setid.mat` and either `jpg/` or
        `102flowers.tgz`; or a tensorflow-datasets folder. The archive is unpacked once,
        next to itself. None downloads the files to `cache_dir`.
      split: a key of `SPLITS`.
      verify: True checks the hashes of the label files, the sizes of the splits and the
        number of images of each class. Use False for a smaller data set in the official
        layout.
      cache_dir: the folder of downloads; ~/.cache/seeflower_jax by default.

    Raises:
      ValueError: if `split` is unknown, or if the files do not hold the data set.
      FileNotFoundError: if a file is missing; the message lists the expected files.
      download.DownloadError: if a download fails.
    """
    if split not in SPLITS:
        hint = hints.did_you_mean(split, SPLITS)
        raise ValueError(f"unknown split {split!r}: known are {list(SPLITS)}{hint}")
    folder = _download(cache_dir) if dir is None else pathlib.Path(dir).expanduser()
    tfds_folder = _find_tfds(folder)
    files = _open_tfds(tfds_folder) if tfds_folder else _open_official(folder, verify)
    _check_ids(folder, files.labels, files.indices)
    if verify:
        _check_counts(folder, files.labels, files.indices)
    keys = tuple(_key(index) for index in range(len(files.labels)))
    return ImageSource(
        name=NAME,
        fingerprint=fingerprint(str(folder.resolve()), files.stamps),
        class_names=CLASS_NAMES,
        keys=keys,
        labels=files.labels,
        splits={
            name: np.sort(
                np.concatenate([files.indices[part] for part in parts.split("+")])
            )
            for name, parts in SPLITS[split].items()
        },
        read=files.read,
        folder=str(folder.resolve()),
    )


def _download(cache_dir: str | os.PathLike | None) -> pathlib.Path:
    """Download the official files that are missing, and return their folder."""
    folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser() / NAME
    for name, sha256 in SHA256.items():
        if name != "102flowers.tgz" or not (folder / "jpg").is_dir():
            download.fetch(BASE_URL + name, folder / name, sha256=sha256)
    return folder


def _key(index: int) -> str:
    return f"image_{index + 1:05d}.jpg"


def read_mat_files(
    folder: pathlib.Path, verify: bool
) -> tuple[Int32[np.ndarray, "n"], PartIndices]:
    """Return the labels, and the indices of the images of each part, both from 0.

    Raises:
      FileNotFoundError, ValueError: for the reasons that `load` lists.
    """
    values: dict[str, np.ndarray] = {}
    for name, keys in (
        ("imagelabels.mat", ("labels",)),
        ("setid.mat", ("trnid", "valid", "tstid")),
    ):
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing; expected imagelabels.mat, setid.mat, and jpg/ or "
                f"102flowers.tgz in {folder}, from {BASE_URL}"
            )
        if verify and (sha256 := download.file_hash(path)) != SHA256[name]:
            raise ValueError(
                f"{path} has SHA-256 {sha256}, expected {SHA256[name]}; get the "
                f"official file from {BASE_URL}{name}, or set data.verify to False for "
                "another data set"
            )
        for key, array in mat_files.read(path, keys, trusted=verify).items():
            values[key] = array.astype(np.int32) - 1
    return values.pop("labels"), values


def _check_ids(
    folder: pathlib.Path, labels: Int32[np.ndarray, "n"], indices: PartIndices
) -> None:
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        raise ValueError(
            f"labels in {folder} are from {labels.min() + 1} to {labels.max() + 1}; "
            f"expected 1 to {len(CLASS_NAMES)}"
        )
    all_indices = np.concatenate(list(indices.values()))
    if all_indices.min() < 0 or all_indices.max() >= len(labels):
        raise ValueError(
            f"the label file in {folder} has {len(labels)} labels, but the splits have "
            f"image ids from {all_indices.min() + 1} to {all_indices.max() + 1}; "
            "expected two files of the same data set"
        )
    if len(np.unique(all_indices)) < len(all_indices):
        raise ValueError(
            f"the splits in {folder} share images; expected each image in one split"
        )


def _check_counts(
    folder: pathlib.Path, labels: Int32[np.ndarray, "n"], indices: PartIndices
) -> None:
    for part, expected in _COUNTS.items():
        per_class = np.bincount(labels[indices[part]], minlength=len(CLASS_NAMES))
        counts = len(indices[part]), per_class.min(), per_class.max()
        if counts != expected:
            raise ValueError(
                f"{folder}: split {part} has {counts[0]} images, {counts[1]} to "
                f"{counts[2]} of a class; expected {expected[0]}, {expected[1]} to "
                f"{expected[2]}. Set data.verify to False for another data set in this "
                "layout"
            )


def _open_official(folder: pathlib.Path, verify: bool) -> _Files:
    labels, indices = read_mat_files(folder, verify)
    jpg = folder / "jpg"
    if not jpg.is_dir():
        _unpack(folder / "102flowers.tgz", jpg)
    missing, stamps = [], []
    for index in range(len(labels)):
        try:
            stamps.append((_key(index), stamp(jpg / _key(index))))
        except FileNotFoundError:
            missing.append(_key(index))
    if missing:
        raise FileNotFoundError(
            f"{jpg} lacks {len(missing)} of the {len(labels)} labelled images, "
            f"first {missing[0]}; delete {jpg} and unpack 102flowers.tgz again"
        )
    return _Files(labels, indices, stamps, lambda i: (jpg / _key(i)).read_bytes())


def _unpack(archive: pathlib.Path, jpg: pathlib.Path) -> None:
    """Unpack the folder `jpg` of an archive, completely or not at all."""
    if not archive.exists():
        raise FileNotFoundError(
            f"{archive.parent} has neither jpg/ nor 102flowers.tgz; get the archive "
            f"from {BASE_URL}102flowers.tgz"
        )
    logging.info("unpacking %s", archive)
    try:
        with (
            files.workspace(jpg) as partial,
            tarfile.open(archive) as tar,
        ):
            unpacked = partial / "jpg"
            unpacked.mkdir()
            for member in tar:
                path = pathlib.PurePosixPath(member.name)
                # Regular files by their last name, so that no path leads elsewhere.
                if member.isfile() and path.match("jpg/image_*.jpg"):
                    if content := tar.extractfile(member):
                        (unpacked / path.name).write_bytes(content.read())
            if not any(unpacked.iterdir()):
                raise tarfile.ReadError("it has no images in a folder jpg")
            os.replace(unpacked, jpg)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if jpg.is_dir():  # another process has just unpacked the archive
            return
        if isinstance(error, OSError) and error.errno:  # such as a full disk
            raise OSError(
                f"{archive} cannot be unpacked to {jpg}: {error.strerror}"
            ) from error
        raise ValueError(
            f"{archive} cannot be unpacked: {error!r}. It has "
            f"{archive.stat().st_size:,} bytes, the official archive has 344,862,509; "
            f"get it again from {BASE_URL}102flowers.tgz"
        ) from error


def _find_tfds(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the folder with the files of tensorflow-datasets, or None."""
    for version in (folder / NAME / "2.1.1", folder / "2.1.1", folder):
        if (version / "dataset_info.json").exists():
            return version
    return None


def _open_tfds(folder: pathlib.Path) -> _Files:
    # The import takes seconds, and only this layout needs it.
    import tensorflow_datasets as tfds

    if not any(folder.glob("*.array_record*")):
        raise ValueError(
            f"{folder} has no array_record files, and other formats need TensorFlow; "
            "write array_record files with python -m scripts.prepare_data"
        )
    builder = tfds.builder_from_directory(folder)
    decoders = {"image": tfds.decode.SkipDecoding()}
    row_of_image, label_of_image, indices = {}, {}, {}
    for part, split in _TFDS_SPLITS.items():
        rows = builder.as_data_source(split, decoders=decoders)
        indices[part] = np.zeros(len(rows), np.int32)
        for row, example in enumerate(rows):
            index = int(example["file_name"].decode()[len("image_") : -len(".jpg")]) - 1
            row_of_image[index] = rows, row
            label_of_image[index] = example["label"]
            indices[part][row] = index
    count = len(row_of_image)
    if sorted(row_of_image) != list(range(count)):
        raise ValueError(
            f"{folder} does not hold each image of its splits once; write it again "
            "with python -m scripts.prepare_data"
        )
    labels = np.array([label_of_image[index] for index in range(count)], np.int32)
    stamps = sorted((f.name, stamp(f)) for f in folder.glob("*.array_record*"))

    def read(index: int) -> bytes:
        rows, row = row_of_image[index]
        return rows[row]["image"]

    return _Files(labels, indices, stamps, read)
