"""Load a network with pretrained weights.

    spec, variables, record = load_pretrained(spec, "imagenet", key=jax.random.key(0))
    spec, variables, record = load_classifier("vgg16", "vgg16-397923af.pth")

A weight file determines more than the variables: the preprocessing, how average pooling
treats the border, and whether batch normalisation has a scale. All functions therefore
return the spec with the values of the file.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterable
from typing import TypeAlias, cast

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from seeflower_jax import download, models
from seeflower_jax.pretrained import converted, preprocessing, published, readers
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.merge import MergeError, merge
from seeflower_jax.pretrained.spec_inference import infer_spec
from seeflower_jax.pretrained.types import Variables, WeightRecord

_DEFAULT_DIR = "~/.cache/seeflower_jax/weights"
# The fields of a ModelSpec that a weight file determines in addition to shapes.
_RULES = ("preprocess", "epsilon", "batch_norm_scale", "count_include_pad")
# The part of a file's classifier that `load_pretrained` takes.
HEADS = ("new", "hidden", "all")
# The layers of a classifier that this package knows.
_HEAD_LAYERS = ("norm", "fc1", "fc2", "logits")

# The published weights that the error of a missing file recommends, by what a user sets
# to the path of the file.
_CONFIG_KEY = "init.weights"
_RECOMMENDED = {
    _CONFIG_KEY: "imagenet",
    "--source": "imagenet",
    "--weights": "imagenet:top",
}

# (spec with the values of the file, variables, origin of the weights)
Loaded: TypeAlias = tuple[models.ModelSpec, Variables, WeightRecord]


def load_pretrained(
    spec: models.ModelSpec,
    weights: str = "imagenet",
    head: str = "new",
    key: PRNGKeyArray | None = None,
    cache_dir: str | os.PathLike | None = None,
    preprocess: str | None = None,
) -> Loaded:
    """Load a network with the variables of a weight file and a head to train.

    Args:
      spec: the network. The returned spec has the preprocessing, the epsilon, the
        scale of batch normalisation and the pooling rule of the file.
      weights: 'imagenet' downloads Keras' file, 'imagenet:top' Keras' file with the
        classifier, 'imagenet:torchvision' the file of torchvision. '' initialises all
        variables. Any other value is the path of a weight file or of a folder that
        scripts.convert_weights wrote.
      head: 'new' initialises the whole head. 'hidden' takes the dense layers below the
        last one from the file. 'all' takes the whole head from the file.
      key: the key for the variables that are initialised; `jax.random.key(0)` by
        default.
      cache_dir: the folder of downloads; ~/.cache/seeflower_jax/weights by default.
      preprocess: the preprocessing that the weights expect, a key of
        `models.PREPROCESS`. By default it comes from the file or its hash. For an
        unknown file, it is the usual preprocessing of the format.

    Returns:
      (spec, variables, record); all values of the record are None without a file.

    Raises:
      FileNotFoundError: if the file does not exist; the message says where to get it.
      download.DownloadError: if the download fails.
      ValueError: if the file does not fit the network; the message lists all variables
        that differ.
    """
    if head not in HEADS:
        raise ValueError(f"init.head is {head!r}; expected one of {HEADS}")
    key = jax.random.key(0) if key is None else key
    if not weights:
        record = WeightRecord(name=None, sha256=None, exact=None)
        return spec, models.init(spec, key), record
    path = _locate(spec.name, weights, cache_dir, _CONFIG_KEY)
    loaded, file_spec = _read(spec.name, path)
    rules = {rule: getattr(file_spec, rule) for rule in _RULES}
    spec = dataclasses.replace(spec, **rules)
    file_head = loaded["params"].pop("head", {})
    if head == "new":
        _report_ignored(path, file_head)
    else:
        loaded["params"]["head"] = {
            name: layer
            for name, layer in file_head.items()
            if head == "all" or name != "logits"
        }
    if head != "all":
        loaded["batch_stats"].pop("head", None)
    initialised = models.shapes(spec)
    allow_missing = {
        "new": ["(params|batch_stats)/head/.*"],
        "hidden": ["params/head/logits/.*", "batch_stats/head/.*"],
        "all": [],
    }[head]
    if allow_missing:
        for collection, values in models.init_head(spec, key).items():
            initialised[collection]["head"] = values["head"]
    variables = _merge(path, loaded, initialised, allow_missing)
    spec = _with_preprocess(spec, path, variables, preprocess)
    return spec, variables, _record(spec.name, path, variables)


def load_source(
    model: str,
    weights: str,
    cache_dir: str | os.PathLike | None = None,
    preprocess: str | None = None,
    head: bool = True,
) -> Loaded:
    """Load a network exactly as a weight file holds it, with or without a head.

    Args:
      model: the name of the network, a key of `models.MODELS`.
      weights, cache_dir, preprocess: as in `load_pretrained`.
      head: False leaves out the classifier of the file.

    Returns:
      (spec, variables, record); the spec has the width and the head of the file.

    Raises:
      FileNotFoundError, download.DownloadError, ValueError: as `load_pretrained`.
    """
    path = _locate(model, weights, cache_dir, "--source")
    loaded, spec = _read(model, path)
    if not head:
        loaded["params"].pop("head", None)
    layers = list(loaded["params"].get("head", {}))
    others = [name for name in layers if name not in _HEAD_LAYERS]
    if layers and "logits" not in layers:
        others = layers
    if others:
        raise WeightFileError(
            f"{path} holds {model} with another classifier, of {', '.join(others[:8])}"
            f"{' ...' * (len(others) > 8)}, which this package cannot build; leave it "
            "out (scripts.convert_weights --nohead), or train a new one (scripts.train)"
        )
    spec = infer_spec(spec, loaded["params"], path)
    expected = models.shapes(spec)
    if "head" not in loaded["params"]:
        expected["params"].pop("head")
        expected["batch_stats"].pop("head", None)
    variables = _merge(path, loaded, expected)
    spec = _with_preprocess(spec, path, variables, preprocess)
    return spec, variables, _record(model, path, variables)


def load_classifier(
    model: str,
    weights: str,
    cache_dir: str | os.PathLike | None = None,
    preprocess: str | None = None,
) -> Loaded:
    """Load a network exactly as a weight file holds it, with its classifier.

    Arguments and results are the same as in `load_source`.

    Raises:
      WeightFileError: if the file has no classifier, or a classifier with one output.
      FileNotFoundError, download.DownloadError, ValueError: as `load_pretrained`.
    """
    path = _locate(model, weights, cache_dir, "--weights")
    spec, variables, record = load_source(model, str(path), preprocess=preprocess)
    if "logits" not in variables["params"].get("head", {}):
        with_top = published.CATALOG.get(f"{model}:top")
        example = f", such as {with_top.name}" if with_top else ""
        raise WeightFileError(
            f"{weights} holds {model} without a classifier, expected a file with "
            f"a classifier{example}"
        )
    if spec.num_classes < 2:
        raise WeightFileError(
            f"{weights} holds {model} with a classifier of one output, as for a "
            "sigmoid, expected an output for each class; train a new classifier with "
            "two classes (scripts.train)"
        )
    return spec, variables, record


def _locate(
    model: str,
    weights: str,
    cache_dir: str | os.PathLike | None,
    setting: str,
) -> pathlib.Path:
    """Return the path of a weight file; download it if it is published.

    Args:
      model, weights, cache_dir: as in `load_pretrained`.
      setting: a key of `_RECOMMENDED`, for the error message.
    """
    models.get_spec(model)  # An unknown name is the first error to mend.
    if weights.partition(":")[0] == published.PREFIX:
        file = published.find(model, weights)
        folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser()
        path = folder / file.name
        return download.fetch(file.url, path, md5=file.md5, sha256=file.sha256)
    path = pathlib.Path(weights).expanduser()
    if not path.exists():
        name = _RECOMMENDED[setting]
        source = published.of_network(model).get(name)
        if source:
            file = f"{source.url} (MD5 {source.md5})"
            advice = f"get {file}, or set {setting} to {name!r}"
        else:
            random = ", or to '' for random variables" * (setting == _CONFIG_KEY)
            advice = f"set {setting} to the path of a file{random}"
        raise FileNotFoundError(f"weight file {path} does not exist: {advice}")
    return path


def without_head(variables: Variables) -> Variables:
    """Return the variables below the head."""
    return {
        collection: {name: value for name, value in parts.items() if name != "head"}
        for collection, parts in variables.items()
    }


def _read(model: str, path: pathlib.Path) -> tuple[Variables, models.ModelSpec]:
    """Read a weight file by `readers.read`; leave out a head without values.

    torchvision's VGG16 without a classifier has a head of NaN.
    """
    variables, spec = readers.read(model, path)
    arrays = jax.tree.leaves(variables["params"].get("head", {}))
    numeric = [array for array in arrays if array.dtype.kind == "f"]
    if numeric and all(np.isnan(array).all() for array in numeric):
        logging.info("%s: left out its classifier, which has no values", path)
        variables["params"].pop("head")
    return variables, spec


def _report_ignored(path: pathlib.Path, head: Variables) -> None:
    """Log which layers of an unknown head are not loaded."""
    if others := [name for name in head if name not in _HEAD_LAYERS]:
        more = " ..." * (len(others) > 8)
        logging.info(
            "%s: the head is new, so %s%s is not loaded",
            path,
            ", ".join(others[:8]),
            more,
        )


def _with_preprocess(
    spec: models.ModelSpec,
    path: pathlib.Path,
    variables: Variables,
    chosen: str | None,
) -> models.ModelSpec:
    """Return the spec with the preprocessing that the weights expect."""
    if readers.tells_preprocessing(path):
        preprocess = spec.preprocess if chosen is None else chosen
    else:
        preprocess = preprocessing.choose(
            spec.name, path, variables, spec.preprocess, chosen
        )
    return models.get_spec(**spec.to_dict() | {"preprocess": preprocess})


def _merge(
    path: pathlib.Path,
    loaded: Variables,
    initialised: Variables,
    allow_missing: Iterable[str] = (),
) -> Variables:
    """Merge variables by `merge`; the error names the file."""
    try:
        return merge(loaded, initialised, allow_missing)
    except MergeError as error:
        raise MergeError(f"{path}: {error}") from error


def _record(model: str, path: pathlib.Path, variables: Variables) -> WeightRecord:
    """Return the origin of the weights in a file or a folder."""
    if path.is_dir():
        return cast(WeightRecord, converted.describe(path)["source"])
    exact = published.is_published(model, path, variables)
    if not exact:
        logging.warning("%s is not the published file: its hash differs", path)
    return WeightRecord(name=path.name, sha256=download.file_hash(path), exact=exact)
