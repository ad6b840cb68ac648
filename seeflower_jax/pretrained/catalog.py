"""Where pretrained weights are, and how they get into a network.

variables, record = load_pretrained("inception_v3", variables, "imagenet")
"""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable

from seeflower_jax import download
from seeflower_jax.models import vgg
from seeflower_jax.pretrained import keras_h5
from seeflower_jax.pretrained.merge import MergeError, merge

_DEFAULT_DIR = "~/.cache/seeflower_jax/weights"


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A published weight file.

    Attributes:
      url: of the file.
      md5: as published.
      convert: layers of the file, and its name -> variables without the head.
    """

    url: str
    md5: str
    convert: Callable


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_NOTOP = "weights_tf_dim_ordering_tf_kernels_notop.h5"
CATALOG = {
    "inception_v3": PublishedWeights(
        f"{_KERAS}/inception_v3/inception_v3_{_NOTOP}",
        "bcbd6486424b2319ff4ef7d526e38f63",
        keras_h5.inception_v3,
    ),
    "vgg16": PublishedWeights(
        f"{_KERAS}/vgg16/vgg16_{_NOTOP}",
        "6d6bbae143d832006294945121d1f1fc",
        functools.partial(keras_h5.vgg, vgg.VGG16),
    ),
    "vgg19": PublishedWeights(
        f"{_KERAS}/vgg19/vgg19_{_NOTOP}",
        "253f8cb515780f3b799900260a226db6",
        functools.partial(keras_h5.vgg, vgg.VGG19),
    ),
}


def load_pretrained(
    model: str,
    variables: dict,
    weights: str = "imagenet",
    cache_dir: str | os.PathLike | None = None,
) -> tuple[dict, dict]:
    """Replaces all variables but the head's by those of a weight file.

    Args:
      model: key of `CATALOG`.
      variables: {'params', 'batch_stats'}, of which only the head has to be
        initialised; shapes are enough for the rest.
      weights: 'imagenet' downloads the published file; otherwise the path of one.
      cache_dir: of downloads; ~/.cache/seeflower_jax/weights by default.

    Returns:
      (variables, {'name': of the file, 'sha256': of it, 'exact': whether it is the
      published file by its MD5}).

    Raises:
      FileNotFoundError: if there is no such file; names where to get it.
      download.DownloadError: if the download fails.
      ValueError: if the file does not fit the network; lists everything.
    """
    published = CATALOG[model]
    if weights == "imagenet":
        folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser()
        path = folder / published.url.rsplit("/", 1)[-1]
        download.fetch(published.url, path, md5=published.md5)
    else:
        path = pathlib.Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no weight file {path}; get {published.url} "
                f"(MD5 {published.md5}), or set init.weights to 'imagenet'"
            )
    exact = download.file_hash(path, "md5") == published.md5
    if not exact:
        logging.warning("%s is not the published file: its MD5 differs", path)
    loaded = published.convert(keras_h5.read(path), str(path))
    try:
        merged = merge(loaded, variables, allow_missing=["params/head/.*"])
    except MergeError as error:
        raise MergeError(f"{path}: {error}") from error
    record = {"name": path.name, "sha256": download.file_hash(path), "exact": exact}
    return merged, record
