"""Oxford 102 Flowers (Nilsback and Zisserman 2008), from three kinds of places.

    source = load()                     # downloads the official files
    source = load("flowers/")           # 102flowers.tgz or jpg/, and the two .mat files
    source = load("tensorflow_datasets/")    # oxford_flowers102/2.1.1 in array_record

All give the same pictures, in the order of their ids, and the same splits:

    official   train 1,020    validation 1,020   test 6,149
    trainval   train 2,040                       test 6,149
    reversed   train 6,149    validation 1,020   test 1,020
"""

import hashlib
import logging
import os
import pathlib
import shutil
import tarfile
import uuid
import zlib

import numpy as np
import scipy.io

from seeflower_jax import download, hints
from seeflower_jax.data.oxford_names import CLASS_NAMES
from seeflower_jax.data.source import ImageSource

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
# The official sizes, and the range of the number of pictures of each class.
_COUNTS = {"trnid": (1020, 10, 10), "valid": (1020, 10, 10), "tstid": (6149, 20, 238)}
_TFDS_SPLITS = {"trnid": "train", "valid": "validation", "tstid": "test"}
_DEFAULT_DIR = "~/.cache/seeflower_jax"


def load(
    dir: str | None = None,
    split: str = "official",
    verify: bool = True,
    cache_dir: str | None = None,
) -> ImageSource:
    """The flowers as an `ImageSource`.

    Args:
      dir: a folder with `imagelabels.mat`, `setid.mat` and either `jpg/` or
        `102flowers.tgz` (unpacked once, beside it); or a tensorflow-datasets folder.
        None downloads to `cache_dir`.
      split: a key of `SPLITS`.
      verify: checks the hashes of the label files, the sizes of the splits and the
        number of pictures of each class; to be switched off for a smaller set in the
        official layout.
      cache_dir: of downloads; ~/.cache/seeflower_jax by default.

    Raises:
      ValueError: for an unknown split and for files that are not what they should be.
      FileNotFoundError: names what is missing and what is expected.
      download.DownloadError: if a download fails.
    """
    if split not in SPLITS:
        hint = hints.did_you_mean(split, SPLITS)
        raise ValueError(f"unknown split {split!r}: known are {list(SPLITS)}{hint}")
    if dir is None:
        folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser() / NAME
        for name, sha256 in SHA256.items():
            if name != "102flowers.tgz" or not (folder / "jpg").is_dir():
                download.fetch(BASE_URL + name, folder / name, sha256=sha256)
    else:
        folder = pathlib.Path(dir).expanduser()
    tfds_folder = _find_tfds(folder)
    if tfds_folder:
        labels, ids, sizes, read = _open_tfds(tfds_folder)
    else:
        labels, ids, sizes, read = _open_official(folder, verify)
    _check_ids(folder, labels, ids)
    if verify:
        _check_counts(folder, labels, ids)
    keys = tuple(_key(index) for index in range(len(labels)))
    digest = hashlib.sha256(repr((keys, sizes)).encode()).hexdigest()[:12]
    return ImageSource(
        name=NAME,
        fingerprint=digest,
        class_names=CLASS_NAMES,
        keys=keys,
        labels=labels,
        splits={
            name: np.sort(np.concatenate([ids[part] for part in parts.split("+")]))
            for name, parts in SPLITS[split].items()
        },
        read=read,
    )


def _key(index: int) -> str:
    return f"image_{index + 1:05d}.jpg"


def read_mat_files(folder: pathlib.Path, verify: bool) -> tuple[np.ndarray, dict]:
    """Labels int32 [N] from 0, and {'trnid', 'valid', 'tstid': indices from 0}.

    Raises:
      FileNotFoundError, ValueError: as `load`.
    """
    values = {}
    for name, keys in (
        ("imagelabels.mat", ["labels"]),
        ("setid.mat", ["trnid", "valid", "tstid"]),
    ):
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: {folder} should hold imagelabels.mat, setid.mat "
                f"and jpg/ or 102flowers.tgz, from {BASE_URL}"
            )
        if verify and (found := download.file_hash(path)) != SHA256[name]:
            raise ValueError(
                f"{path} has SHA-256 {found}, the official file {SHA256[name]}; get it "
                f"from {BASE_URL}{name}, or set data.verify to False for another set"
            )
        try:
            content = scipy.io.loadmat(path)
            values |= {key: content[key].ravel().astype(np.int32) - 1 for key in keys}
        except Exception as error:  # SciPy raises many kinds for a damaged file
            raise ValueError(
                f"{path} is no MATLAB file with the variables {keys}: {error!r}"
            ) from error
    return values.pop("labels"), values


def _check_ids(folder, labels, ids) -> None:
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        raise ValueError(
            f"labels in {folder} are from {labels.min() + 1} to {labels.max() + 1}; "
            f"expected 1 to {len(CLASS_NAMES)}"
        )
    everything = np.concatenate(list(ids.values()))
    if everything.min() < 0 or everything.max() >= len(labels):
        raise ValueError(
            f"the label file in {folder} has {len(labels)} labels, but the splits name "
            f"picture ids from {everything.min() + 1} to {everything.max() + 1}; the "
            "two files do not belong together"
        )
    if len(np.unique(everything)) < len(everything):
        raise ValueError(f"the splits in {folder} share pictures")


def _check_counts(folder, labels, ids) -> None:
    for part, (total, fewest, most) in _COUNTS.items():
        per_class = np.bincount(labels[ids[part]], minlength=len(CLASS_NAMES))
        found = len(ids[part]), per_class.min(), per_class.max()
        if found != (total, fewest, most):
            raise ValueError(
                f"{folder}: split {part} has {found[0]} pictures, {found[1]} to "
                f"{found[2]} of a class; expected {total}, {fewest} to {most}. Set "
                "data.verify to False for another set in this layout"
            )


def _open_official(folder: pathlib.Path, verify: bool):
    labels, ids = read_mat_files(folder, verify)
    jpg = folder / "jpg"
    if not jpg.is_dir():
        _unpack(folder / "102flowers.tgz", jpg)
    missing, sizes = [], []
    for index in range(len(labels)):
        try:
            sizes.append((jpg / _key(index)).stat().st_size)
        except FileNotFoundError:
            missing.append(_key(index))
    if missing:
        raise FileNotFoundError(
            f"{jpg} lacks {len(missing)} of the {len(labels)} labelled pictures, "
            f"first {missing[0]}; delete {jpg} and unpack 102flowers.tgz again"
        )
    return labels, ids, sizes, lambda index: (jpg / _key(index)).read_bytes()


def _unpack(archive: pathlib.Path, jpg: pathlib.Path) -> None:
    """Unpacks the folder `jpg` of an archive, all or nothing."""
    if not archive.exists():
        raise FileNotFoundError(
            f"{archive.parent} has neither jpg/ nor 102flowers.tgz; get the archive "
            f"from {BASE_URL}102flowers.tgz"
        )
    partial = jpg.with_name(f"jpg.{uuid.uuid4().hex}.partial")
    logging.info("unpacking %s", archive)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        os.replace(partial / "jpg", jpg)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if jpg.is_dir():  # another process has just done the same
            return
        raise ValueError(
            f"{archive} cannot be unpacked: {error!r}. It has "
            f"{archive.stat().st_size:,} bytes, the official one 344,862,509; get it "
            f"again from {BASE_URL}102flowers.tgz"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _find_tfds(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder with the files of the tensorflow-datasets version, if there is one."""
    for version in (folder / NAME / "2.1.1", folder / "2.1.1", folder):
        if (version / "dataset_info.json").exists():
            return version
    return None


def _open_tfds(folder: pathlib.Path):
    import tensorflow_datasets as tfds  # takes seconds, and only this way in needs it

    if not any(folder.glob("*.array_record*")):
        raise ValueError(
            f"{folder} has no array_record files, and others cannot be read without "
            "TensorFlow; write such a folder by python -m scripts.prepare_data"
        )
    builder = tfds.builder_from_directory(folder)
    decoders = {"image": tfds.decode.SkipDecoding()}
    place, label_of, ids = {}, {}, {}
    for part, split in _TFDS_SPLITS.items():
        rows = builder.as_data_source(split, decoders=decoders)
        ids[part] = np.zeros(len(rows), np.int32)
        for row, example in enumerate(rows):
            index = int(example["file_name"].decode()[len("image_") : -len(".jpg")]) - 1
            place[index], label_of[index] = (rows, row), example["label"]
            ids[part][row] = index
    if sorted(place) != list(range(len(place))):
        raise ValueError(f"{folder} does not hold each picture of its splits once")
    labels = np.array([label_of[i] for i in range(len(place))], np.int32)
    sizes = sorted((f.name, f.stat().st_size) for f in folder.glob("*.array_record*"))

    def read(index):
        rows, row = place[index]
        return rows[row]["image"]

    return labels, ids, sizes, read
