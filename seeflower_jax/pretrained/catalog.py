"""Where pretrained weights are, and how they get into a network.

    spec, variables, record = load_pretrained(spec, "imagenet", key=jax.random.key(0))
    spec, variables, record = load_classifier("vgg16", "vgg16-397923af.pth")

A weight file decides more than the variables: the preprocessing, how average pooling
treats the border, whether batch normalisation has a scale. Both functions return the
spec with what the file says.
"""

import dataclasses
import json
import logging
import os
import pathlib

import jax
import numpy as np

from seeflower_jax import download, models, records
from seeflower_jax.models.classifier import POOLING
from seeflower_jax.pretrained import checkpoint, keras_h5, torch_state
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.merge import MergeError, merge

_DEFAULT_DIR = "~/.cache/seeflower_jax/weights"
# What a weight file decides of a ModelSpec, apart from its shapes.
_RULES = ("preprocess", "epsilon", "batch_norm_scale", "count_include_pad")
# How much of a file's classifier is taken.
HEADS = ("new", "hidden", "all")


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A published weight file.

    Attributes:
      url: of the file.
      md5: as published, or None.
      sha256: the start of it, as published in the file's name, or None.
      variables: `_variables_hash` of what it holds, or None: other files may hold it,
        too, in Keras' other formats for example.
    """

    url: str
    md5: str | None = None
    sha256: str | None = None
    variables: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]

    def matches(self, path) -> bool:
        """Whether a file is this one, by the published hash."""
        if self.md5:
            return download.file_hash(path, "md5") == self.md5
        return download.file_hash(path).startswith(self.sha256)


def _keras(model, md5, ending="_notop", variables=None):
    base = "https://storage.googleapis.com/tensorflow/keras-applications"
    name = f"{model}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
    return PublishedWeights(f"{base}/{model}/{name}", md5=md5, variables=variables)


def _torch(name, sha256):
    url = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    return PublishedWeights(url, sha256=sha256)


# By network and, for others than Keras' weights without the classifier, source:
# weights 'imagenet', 'imagenet:top' (with it), 'imagenet:torchvision'.
CATALOG = {
    "inception_v3": _keras("inception_v3", "bcbd6486424b2319ff4ef7d526e38f63"),
    "inception_v3:top": _keras("inception_v3", "9a0d58056eeedaa3f26cb7ebd46da564", ""),
    "inception_v3:torchvision": _torch("inception_v3_google", "0cc3c7bd"),
    "vgg16": _keras(
        "vgg16", "6d6bbae143d832006294945121d1f1fc", variables="f4a4823496d8"
    ),
    "vgg16:top": _keras("vgg16", "64373286793e3c8b2b4e3219cbf3544b", ""),
    "vgg16:torchvision": _torch("vgg16", "397923af"),
    "vgg19": _keras("vgg19", "253f8cb515780f3b799900260a226db6"),
    "vgg19:top": _keras("vgg19", "cbe5617147190e668d6c5d5026f83318", ""),
    "vgg19:torchvision": _torch("vgg19", "dcbb9e9d"),
}


def _read_keras(model, path):
    _check_known(model, path)
    return keras_h5.convert(model, keras_h5.read(path), path), models.get_spec(model)


def _read_torch(model, path):
    _check_known(model, path)
    state, metadata = torch_state.read(path)
    if "spec" in metadata:
        spec = _expect(model, json.loads(metadata["spec"]), path)
    else:
        spec = models.get_spec(model, **torch_state.RULES[model])
    return torch_state.convert(model, state, path), spec


def _check_known(model, path):
    if f"{model}:top" not in CATALOG:
        raise WeightFileError(f"{path}: no weight files of {model} are known")


# What reads a file, by how its name ends: (model, path) -> (variables, the spec whose
# preprocessing and pooling rule go with them).
READERS = {
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _read_keras),
    **dict.fromkeys((".pth", ".pt", ".safetensors"), _read_torch),
}


def read(model: str, path: str | os.PathLike) -> tuple[dict, models.ModelSpec]:
    """What a weight file or a folder of converted weights says of a network.

    Returns:
      (variables, the head's among them where the file has them; the spec whose
      preprocessing, pooling rule and batch normalisation go with them).

    Raises:
      WeightFileError: if it is none of the known formats or holds another network.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        content, variables = checkpoint.load(path)
        return variables, _expect(model, content["spec"], path)
    if path.suffix not in READERS:
        raise WeightFileError(
            f"{path} has an unknown format: expected a name that ends in one of "
            f"{', '.join(READERS)}, or a folder of converted weights"
        )
    variables, spec = READERS[path.suffix](model, path)
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"]["backbone"])
    scale = any(name[-1].key == "scale" for name, _ in leaves)
    return variables, dataclasses.replace(spec, batch_norm_scale=scale)


def _expect(model, stored, path) -> models.ModelSpec:
    """A stored spec, if it is of `model`."""
    if stored["name"] != model:
        raise WeightFileError(f"{path} holds {stored['name']}, expected {model}")
    return models.ModelSpec(**stored)


def _locate(model, weights, cache_dir) -> pathlib.Path:
    if weights.partition(":")[0] == "imagenet":
        key = model + weights.removeprefix("imagenet")
        if key not in CATALOG:
            known = [name for name in CATALOG if name.partition(":")[0] == model]
            raise ValueError(
                f"there are no weights {weights!r} of {model}; there are "
                f"{['imagenet' + name.removeprefix(model) for name in known]}"
            )
        published = CATALOG[key]
        folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser()
        path = folder / published.name
        download.fetch(published.url, path, md5=published.md5, sha256=published.sha256)
        return path
    path = pathlib.Path(weights).expanduser()
    if not path.exists():
        published = CATALOG.get(model)
        hint = f"; get {published.url} (MD5 {published.md5})" if published else ""
        raise FileNotFoundError(
            f"there is no weight file {path}{hint}, or set init.weights to 'imagenet'"
        )
    return path


def _variables_hash(variables) -> str:
    """Of what is below the head."""
    backbone = {"backbone": variables["params"]["backbone"]}
    return records.variables_hash({**variables, "params": backbone})


def _record(model, path, variables) -> dict:
    """Name, hash and whether it is published, of a file or converted weights."""
    if path.is_dir():
        return checkpoint.load(path)[0]["source"]
    published = [w for key, w in CATALOG.items() if key.partition(":")[0] == model]
    exact = any(weights.matches(path) for weights in published) or any(
        weights.variables == _variables_hash(variables)
        for weights in published
        if weights.variables
    )
    if not exact:
        logging.warning("%s is not the published file: its hash differs", path)
    return {"name": path.name, "sha256": download.file_hash(path), "exact": exact}


def load_pretrained(
    spec: models.ModelSpec,
    weights: str = "imagenet",
    head: str = "new",
    key=None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[models.ModelSpec, dict, dict]:
    """A network with the variables of a weight file.

    Args:
      spec: the network; what the file decides is changed in it.
      weights: 'imagenet' downloads Keras' file, 'imagenet:top' the one with the
        classifier, 'imagenet:torchvision' PyTorch's; '' takes random variables;
        otherwise the path of a file, or of a folder of scripts.convert_weights.
      head: 'new' initialises the whole head, 'hidden' takes its dense layers below the
        last from the file, 'all' takes all of it.
      key: for what is initialised; key 0 by default.
      cache_dir: of downloads; ~/.cache/seeflower_jax/weights by default.

    Returns:
      (spec, variables, {'name': of the file, 'sha256': of it, 'exact': whether it is a
      published file by its hash, or holds the same variables below the head}; the
      values are None without a file).

    Raises:
      FileNotFoundError: if there is no such file; names where to get it.
      download.DownloadError: if the download fails.
      ValueError: if the file does not fit the network; lists everything.
    """
    if head not in HEADS:
        raise ValueError(f"init.head is {head!r}; expected one of {HEADS}")
    key = jax.random.key(0) if key is None else key
    if not weights:
        record = {"name": None, "sha256": None, "exact": None}
        return spec, models.init(spec, key), record
    path = _locate(spec.name, weights, cache_dir)
    loaded, source = read(spec.name, path)
    spec = dataclasses.replace(spec, **{rule: getattr(source, rule) for rule in _RULES})
    found = loaded["params"].pop("head", {})
    kept = {k: v for k, v in found.items() if head == "all" or k != "logits"}
    new = {"new": "params/head/.*", "hidden": "params/head/logits/.*"}.get(head)
    if head != "new":
        loaded["params"]["head"] = kept
    variables = models.shapes(spec)
    if new:
        variables["params"]["head"] = models.init_head(spec, key)
    try:
        merged = merge(loaded, variables, allow_missing=[new] if new else [])
    except MergeError as error:
        raise MergeError(f"{path}: {error}") from error
    return spec, merged, _record(spec.name, path, merged)


def load_source(
    model: str, weights: str, cache_dir: str | os.PathLike | None = None
) -> tuple[models.ModelSpec, dict, dict]:
    """Just what a weight file has of a network: its variables, with the head or not.

    Args:
      model: key of `models.MODELS`.
      weights, cache_dir: as `load_pretrained`.

    Returns:
      (spec, variables, record), as `load_pretrained`.

    Raises:
      As `load_pretrained`.
    """
    path = _locate(model, weights, cache_dir)
    loaded, spec = read(model, path)
    spec = _describe(spec, loaded["params"], path)
    variables = models.shapes(spec)
    if "head" not in loaded["params"]:
        variables["params"].pop("head")
    try:
        merged = merge(loaded, variables)
    except MergeError as error:
        raise MergeError(f"{path}: {error}") from error
    return spec, merged, _record(model, path, merged)


def load_classifier(
    model: str, weights: str, cache_dir: str | os.PathLike | None = None
) -> tuple[models.ModelSpec, dict, dict]:
    """As `load_source`, of a file with the whole head.

    Raises:
      WeightFileError: if the file has none; and as `load_source`.
    """
    spec, variables, record = load_source(model, weights, cache_dir)
    if "logits" not in variables["params"].get("head", {}):
        published = CATALOG.get(f"{model}:top")
        such = f", such as {published.name}" if published else ""
        raise WeightFileError(
            f"{weights} holds {model} without a classifier, expected one with it{such}"
        )
    return spec, variables, record


def _width(spec, backbone: dict) -> float:
    """The factor on channels that gives a network the shapes of its parameters."""
    published = models.shapes(models.get_spec(spec.name))["params"]["backbone"]
    low, high = 0.0, np.inf
    for name, layer in published.items():
        wanted, found = (
            part.get("conv", part)["kernel"].shape[-1]
            for part in (layer, backbone[name])
        )
        # Channels are rounded: each layer leaves an interval.
        low, high = max(low, (found - 0.5) / wanted), min(high, (found + 0.5) / wanted)
    return (low + high) / 2


def _describe(spec, params, path) -> models.ModelSpec:
    """The spec, with the width and the head that the parameters have."""
    shapes = jax.tree.map(np.shape, params)

    def fits(spec):
        wanted = jax.tree.map(lambda leaf: leaf.shape, models.shapes(spec)["params"])
        return all(shapes[part] == wanted[part] for part in shapes)

    if fits(spec):
        return spec
    spec = dataclasses.replace(spec, width=_width(spec, params["backbone"]))
    head = shapes.get("head", {})
    if "logits" not in head:
        return spec
    spec = dataclasses.replace(
        spec,
        num_classes=head["logits"]["bias"][0],
        hidden=tuple(head[fc]["bias"][0] for fc in ("fc1", "fc2") if fc in head),
    )
    for pooling in POOLING:
        candidate = dataclasses.replace(spec, pooling=pooling)
        if fits(candidate):
            return candidate
    listed = {name: layer["kernel"] for name, layer in head.items()}
    raise WeightFileError(
        f"{path} holds layers that do not fit {spec.name} of width {spec.width:.3g} at "
        f"{spec.input_size} pixels, with a classifier of shapes {listed}"
    )
