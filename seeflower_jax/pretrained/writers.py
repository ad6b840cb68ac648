"""Variables -> files that Keras and PyTorch read.

write("model.h5", "keras_h5", spec, variables, source={"name": ..., "sha256": ...})
"""

import json
import os

from seeflower_jax import models
from seeflower_jax.pretrained import checkpoint, keras_h5, torch_state

FORMATS = ("orbax", "keras_h5", "safetensors")
# What Keras' own network does; a file of weights cannot change it.
_FIXED_IN_KERAS = ("preprocess", "epsilon", "batch_norm_scale", "count_include_pad")


def write(
    path: str | os.PathLike,
    kind: str,
    spec: models.ModelSpec,
    variables: dict,
    source: dict,
) -> None:
    """Writes variables, the head among them if there is one.

    Args:
      path: of the file, or for 'orbax' of the folder; neither must exist.
      kind: 'orbax', 'keras_h5' (Keras' HDF5 weights, loaded by `load_weights`) or
        'safetensors' (torchvision's names; the spec is in its metadata).
      spec, variables: of the network.
      source: where they come from, for the record.

    Raises:
      FileExistsError: if there is something.
      ValueError: if the format has no such network, or Keras' network computes
        something else with these variables.
    """
    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; give another name")
    if kind == "orbax":
        checkpoint.save(path, spec, variables, source)
        return
    if spec.name not in torch_state.RULES:
        raise ValueError(
            f"{kind} files are of {list(torch_state.RULES)}, not {spec.name}"
        )
    if kind == "keras_h5":
        keras = models.get_spec(spec.name)
        differing = [
            f"{rule} is {getattr(spec, rule)!r}, Keras' {getattr(keras, rule)!r}"
            for rule in _FIXED_IN_KERAS
            if getattr(spec, rule) != getattr(keras, rule)
        ]
        if differing:
            raise ValueError(
                f"Keras' {spec.name} computes something else with these weights: "
                f"{'; '.join(differing)}"
            )
        keras_h5.write(path, keras_h5.layers(spec.name, variables))
        return
    metadata = {"spec": json.dumps(spec.to_dict()), "source": json.dumps(source)}
    torch_state.write(path, torch_state.state_dict(spec.name, variables), metadata)
