"""Write Oxford 102 Flowers as a tensorflow-datasets folder, without TensorFlow.

    write("flowers/", "tensorflow_datasets/")
    tfds.builder("oxford_flowers102", data_dir="tensorflow_datasets/").as_data_source()

The builder of tensorflow-datasets opens the source files through TensorFlow. `write`
uses this builder and replaces only the reading of the source files.
"""

import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from seeflower_jax.data import oxford_flowers
from seeflower_jax.data.source import ImageSource
from seeflower_jax.records import files

_VERSION = "2.1.1"


def write(
    source_dir: str | os.PathLike, data_dir: str | os.PathLike, verify: bool = True
) -> pathlib.Path:
    """Write `data_dir`/oxford_flowers102/2.1.1 in array_record, and return this folder.

    The folder is written under another name and renamed, so it is complete or absent.
    If it exists, it stays unchanged, and a log line says so.

    Args:
      source_dir: a folder with the data set, the `dir` of `oxford_flowers.load`.
      data_dir: the data directory of tensorflow-datasets.
      verify: whether the files are checked, as in `oxford_flowers.load`.

    Raises:
      ValueError, FileNotFoundError: for the reasons that `oxford_flowers.load` lists,
        if an image is in no split, or if the folder exists but is not complete or has
        another format.
      OSError: if the folder cannot be written.
    """
    source = oxford_flowers.load(source_dir, "official", verify)
    alone = set(range(len(source.keys))).difference(*source.splits.values())
    if alone:
        raise ValueError(
            f"{source_dir} has {len(alone)} images in no split, such as "
            f"{source.keys[min(alone)]}; tensorflow-datasets needs each image in one"
        )
    data_dir = pathlib.Path(data_dir).expanduser().resolve()
    folder = data_dir / oxford_flowers.NAME / _VERSION
    complete = folder / "dataset_info.json"
    if folder.exists():
        if not complete.exists():
            raise ValueError(
                f"{folder} exists, but has no dataset_info.json, so it is not a "
                "complete data set; remove it or give another folder"
            )
        if not any(folder.glob("*.array_record*")):
            raise ValueError(
                f"{folder} exists, but has no array_record files, which training "
                "reads; remove it or give another folder"
            )
        logging.info("%s exists, and stays unchanged", folder)
        return folder
    try:
        with files.workspace(folder) as partial:
            os.replace(_write(source, partial), folder)
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError.
        if not complete.exists():  # Another process may have been faster.
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{folder} cannot be written: {reason}") from error
    return folder


def _write(source: ImageSource, data_dir: pathlib.Path) -> pathlib.Path:
    """Write the examples of a source with tensorflow-datasets; return their folder."""
    builder = tfds.builder(f"{oxford_flowers.NAME}:{_VERSION}", data_dir=data_dir)

    def examples(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in source.splits[split]:
            key = source.keys[index]
            example = {
                "image": source.read(index),
                "label": int(source.labels[index]),
                "file_name": key,
            }
            yield key, example

    builder._split_generators = lambda dl_manager: {
        split: examples(split) for split in ("train", "test", "validation")
    }
    builder.download_and_prepare(file_format="array_record")
    return pathlib.Path(builder.data_dir)
