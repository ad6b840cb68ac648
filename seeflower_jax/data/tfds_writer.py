"""Writes the tensorflow-datasets form of Oxford 102 Flowers without TensorFlow.

    write("flowers/", "tensorflow_datasets/")
    tfds.builder("oxford_flowers102", data_dir="tensorflow_datasets/").as_data_source()

The builder is tensorflow-datasets' own, only its reading of the source files is
replaced: it opens them through TensorFlow.
"""

import pathlib

import tensorflow_datasets as tfds

from seeflower_jax.data import oxford_flowers


def write(source_dir: str, data_dir: str, verify: bool = True) -> pathlib.Path:
    """Writes `data_dir`/oxford_flowers102/2.1.1 in array_record.

    Args:
      source_dir: as `dir` of `oxford_flowers.load`.
      data_dir: of tensorflow-datasets.
      verify: as `oxford_flowers.load`.

    Returns:
      The folder written; one that is there already is left as it is.

    Raises:
      ValueError, FileNotFoundError: as `oxford_flowers.load`.
    """
    source = oxford_flowers.load(source_dir, "official", verify)
    data_dir = pathlib.Path(data_dir).expanduser().resolve()
    builder = tfds.builder(oxford_flowers.NAME, data_dir=data_dir)

    def examples(split):
        for index in source.splits[split]:
            key = source.keys[index]
            yield (
                key,
                {
                    "image": source.read(index),
                    "label": int(source.labels[index]),
                    "file_name": key,
                },
            )

    builder._split_generators = lambda dl_manager: {
        split: examples(split) for split in ("train", "test", "validation")
    }
    builder.download_and_prepare(file_format="array_record")
    return pathlib.Path(builder.data_dir)
