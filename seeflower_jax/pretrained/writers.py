"""Variables -> files that Keras and PyTorch read.

write("model.h5", "keras_h5", spec, variables, source={"name": ..., "sha256": ...})
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from seeflower_jax import models
from seeflower_jax.pretrained import converted, keras_h5, torch_state
from seeflower_jax.pretrained.types import Variables

FORMATS = ("orbax", "keras_h5", "safetensors")
# The fields of a ModelSpec that Keras' own network fixes. A weight file cannot change
# them.
_FIXED_IN_KERAS = ("preprocess", "epsilon", "batch_norm_scale", "count_include_pad")


def write(
    path: str | os.PathLike,
    file_format: str,
    spec: models.ModelSpec,
    variables: Variables,
    source: Mapping[str, Any],
) -> None:
    """Write variables, with the head if they have one.

    Args:
      path: the file, or the folder for 'orbax'; it must not exist yet.
      file_format: 'orbax', 'keras_h5' (HDF5 weights for Keras' `load_weights`) or
        'safetensors' (torchvision's names; the metadata holds the spec).
      spec, variables: the network.
      source: the origin of the weights, which is stored with them.

    Raises:
      FileExistsError: if `path` exists.
      ValueError: if the format does not support the network, or if Keras' network would
        compute something else with these variables.
    """
    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; give another name")
    if file_format == "orbax":
        converted.save(path, spec, variables, source)
        return
    if spec.name not in torch_state.RULES:
        raise ValueError(
            f"{file_format} files support {list(torch_state.RULES)}, not {spec.name}; "
            "use the format 'orbax'"
        )
    if file_format == "keras_h5":
        _check_fixed_in_keras(spec)
        keras_h5.write(path, keras_h5.to_layers(spec.name, variables))
        return
    metadata = {"spec": json.dumps(spec.to_dict()), "source": json.dumps(dict(source))}
    torch_state.write(path, torch_state.state_dict(spec.name, variables), metadata)


def _check_fixed_in_keras(spec: models.ModelSpec) -> None:
    keras = models.get_spec(spec.name)
    differing = [
        f"{rule} is {getattr(spec, rule)!r}, Keras' {getattr(keras, rule)!r}"
        for rule in _FIXED_IN_KERAS
        if getattr(spec, rule) != getattr(keras, rule)
    ]
    if differing:
        raise ValueError(
            f"Keras' {spec.name} computes something else with these weights: "
            f"{'; '.join(differing)}; use the format 'orbax' or 'safetensors'"
        )
