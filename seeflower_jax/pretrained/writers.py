"""Write variables as files that Keras and PyTorch read.

write("model.h5", "keras_h5", spec, variables, source={"name": ..., "sha256": ...})
"""

import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from seeflower_jax import models, records
from seeflower_jax.pretrained import (
    converted,
    keras_h5,
    readers,
    torch_files,
    torch_state,
)
from seeflower_jax.pretrained.preprocessing import DESCRIPTIONS
from seeflower_jax.pretrained.types import Variables

FORMATS = ("orbax", "keras_h5", "safetensors")
_FRAMEWORKS = {"keras_h5": "Keras'", "safetensors": "torchvision's"}
# The fields of a ModelSpec that a framework's own network fixes. A weight file cannot
# change them. A scale of ones replaces a missing scale in torchvision. Keras' networks
# fix the preprocessing, and torchvision's networks take any preprocessing.
_FIXED = {
    "keras_h5": ("preprocess", "epsilon", "batch_norm_scale", "count_include_pad"),
    "safetensors": ("epsilon", "count_include_pad"),
}
# The ends of the names of files. Keras 3 reads .weights.h5 as another format.
_SUFFIXES = {"keras_h5": (".h5", ".hdf5"), "safetensors": (".safetensors",)}
_KERAS_3 = ".weights.h5"
_LAST_ENDPOINTS = {
    "inception_v3": "mixed10",
    "vgg16": "block5_pool",
    "vgg19": "block5_pool",
}
_TORCH_VGG_MAP = 7  # side of the map that torchvision's VGGs flatten, at any image size


def check_name(path: str | os.PathLike, file_format: str) -> None:
    """Check that the name of a file or folder has the ending of a format.

    Raises:
      ValueError: if it has another ending, so that its format would not be recognised.
    """
    path = pathlib.Path(path)
    if file_format == "orbax":
        if path.suffix.lower() in readers.READERS:
            raise ValueError(
                f"{path} is the name of a file, but the format 'orbax' is a folder; "
                f"give a name without {path.suffix}, or --to=keras_h5 for a file .h5, "
                "or --to=safetensors for a file .safetensors"
            )
    elif not path.name.endswith(_SUFFIXES[file_format]):
        raise ValueError(
            f"{path} does not end in {' or '.join(_SUFFIXES[file_format])}, as a file "
            f"of the format {file_format!r} must; give such a name, or another format "
            "(--to)"
        )
    elif path.name.endswith(_KERAS_3):
        raise ValueError(
            f"{path} ends in {_KERAS_3}, which Keras 3 reads as another format; give "
            f"{path.name.removesuffix(_KERAS_3)}.h5 instead"
        )


def write(
    path: str | os.PathLike,
    file_format: str,
    spec: models.ModelSpec,
    variables: Variables,
    source: Mapping[str, Any],
) -> None:
    """Write variables, including the head if there is one.

    The file or folder appears only when it is complete.

    Args:
      path: the file, or the folder for 'orbax'; it must not exist yet.
      file_format: 'orbax', 'keras_h5' (HDF5 weights for Keras' `load_weights`) or
        'safetensors' (torchvision's names; the metadata holds the spec). The name of
        the file has the ending of the format, see `check_name`.
      spec, variables: the network.
      source: the origin of the weights, which is stored with them.

    Raises:
      FileExistsError: if `path` exists.
      OSError: if the disk is full.
      ValueError: if `path` has the ending of another format, if the format does not
        support the network, or if the network of Keras or torchvision would compute
        something else with these variables.
    """
    check_name(path, file_format)
    if file_format == "orbax":
        converted.save(path, spec, variables, source)
        return
    if spec.name not in torch_state.RULES:
        raise ValueError(
            f"{file_format} files support {list(torch_state.RULES)}, not {spec.name}; "
            "use the format 'orbax'"
        )
    _check_backbone(spec, file_format)
    if "head" in variables["params"]:
        _check_head(spec, variables, file_format)
    with records.creating(path) as partial:
        if file_format == "keras_h5":
            keras_h5.write(partial, keras_h5.to_layers(spec.name, variables))
            return
        state = torch_state.state_dict(spec.name, variables)
        fields, origin = json.dumps(spec.to_dict()), json.dumps(dict(source))
        torch_files.write(partial, state, {"spec": fields, "source": origin})
    logging.info(
        "%s: in PyTorch, the network expects %s",
        path,
        DESCRIPTIONS.get(spec.preprocess, spec.preprocess),
    )


def _check_backbone(spec: models.ModelSpec, file_format: str) -> None:
    framework = _FRAMEWORKS[file_format]
    rules = torch_state.RULES[spec.name] if file_format == "safetensors" else {}
    theirs = models.get_spec(spec.name, **rules)
    differing = [
        f"{rule} is {getattr(spec, rule)!r}, {framework} {getattr(theirs, rule)!r}"
        for rule in _FIXED[file_format]
        if getattr(spec, rule) != getattr(theirs, rule)
    ]
    if differing:
        other = next(name for name in _FRAMEWORKS if name != file_format)
        raise ValueError(
            f"{framework} {spec.name} computes something else with these weights: "
            f"{'; '.join(differing)}; use the format 'orbax' or '{other}'"
        )


def _check_head(spec: models.ModelSpec, variables: Variables, file_format: str) -> None:
    """Check that a framework can build the head from its own layers.

    Keras loads weights in the order of layers, so it accepts any stack of dense layers
    on one pooled or flattened map. torchvision's classifiers are fixed.
    """
    framework, layers = _FRAMEWORKS[file_format], variables["params"]["head"]
    reasons = []
    if spec.pooled not in ((), (_LAST_ENDPOINTS[spec.name],)):
        reasons.append(f"it reads {', '.join(spec.pooled)}, not the last block alone")
    if "head" in variables["batch_stats"]:
        reasons.append("it standardises its features")
    if file_format == "keras_h5":
        expected, pooling = {"fc1", "fc2", "logits"}, ("average", "flatten")
        fits = layers.keys() <= expected
    elif spec.name == "inception_v3":
        expected, pooling = {"logits"}, ("average",)
        fits = layers.keys() == expected
    else:
        expected, pooling = {"fc1", "fc2", "logits"}, ("flatten",)
        fits = layers.keys() == expected
        if fits and spec.pooling == "flatten":
            channels = variables["params"]["backbone"]["block5_conv1"]["bias"].shape[0]
            rows = layers["fc1"]["kernel"].shape[0]
            if rows != channels * _TORCH_VGG_MAP**2:
                reasons.append(f"it takes {rows} features, not a 7 x 7 map")
    if spec.pooling not in pooling:
        reasons.append(f"it pools by {spec.pooling!r}, not {' or '.join(pooling)}")
    if not fits:
        reasons.append(f"its layers are {sorted(layers)}, not {sorted(expected)}")
    if reasons:
        raise ValueError(
            f"{framework} {spec.name} cannot have the classifier of this network: "
            f"{'; '.join(reasons)}; use the format 'orbax', or leave out the "
            "classifier (--nohead)"
        )
