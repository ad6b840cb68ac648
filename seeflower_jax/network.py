"""A network with all it takes to use it on pictures, wherever it came from.

    network = from_weights("vgg16", "vgg16_weights.h5")      # ImageNet's classes
    network = from_export("flowers")                         # of scripts.export
    network = experiment.load_run("runs/inception_seed0")    # a Run is one too

What of it a caller of an exported function needs, its `Interface`, takes none of the
code for networks, weights and training.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from seeflower_jax import exported

if TYPE_CHECKING:
    from seeflower_jax import models

_CROP = 0.875  # of published networks: 224 of 256 pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """What a network takes and gives.

    Attributes:
      class_names: of the logits.
      size: side in pixels of the pictures that it takes.
      crop: the central square's share of a picture's shortest side.
      keep_aspect: False where pictures are squashed to squares.
      shortest_side: in pixels, that pictures are decoded at.
      temperature: that logits are divided by for calibrated probabilities; fitted on
        the validation split of a run, 1 where it was not.
    """

    class_names: tuple[str, ...]
    size: int
    crop: float
    keep_aspect: bool = True
    shortest_side: int
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network(Interface):
    """A network, its variables, and what it takes and gives.

    Attributes:
      origin: the run directory, export or weight file, for records.
      spec, variables: of the network.
      preprocess: applied to cropped pictures before it (whitening), or None.
    """

    origin: str
    spec: "models.ModelSpec"
    variables: dict
    preprocess: Callable | None = None


def interface(described: dict) -> Interface:
    """The interface that an export's description tells."""
    size, crop = described["size"], described["crop"]
    return Interface(
        class_names=tuple(described["class_names"]),
        size=size,
        crop=crop,
        keep_aspect=described.get("keep_aspect", True),
        shortest_side=described.get("shortest_side", round(size / crop)),
        temperature=described.get("temperature", 1.0),
    )


def from_export(folder: str | os.PathLike) -> Network:
    """The network of a folder of scripts.export, built again.

    Raises:
      ValueError: if the folder holds none.
    """
    from seeflower_jax import models
    from seeflower_jax.data import whitening

    folder = pathlib.Path(folder).expanduser()
    described = exported.describe(folder)
    path = folder / whitening.FILE_NAME
    return Network(
        **vars(interface(described)),
        origin=str(folder.resolve()),
        spec=models.ModelSpec(**described["spec"]),
        variables=exported.load_variables(folder),
        preprocess=whitening.load(path) if path.exists() else None,
    )


def from_weights(model: str, weights: str) -> Network:
    """The network of a weight file that has its classifier.

    Raises:
      ValueError: if the file does not fit the network or has no classifier.
    """
    from seeflower_jax.pretrained import imagenet, loading

    spec, variables, record = loading.load_classifier(model, weights)
    names = imagenet.class_names()
    if spec.num_classes != len(names):
        names = tuple(f"class {index}" for index in range(spec.num_classes))
    return Network(
        class_names=names,
        size=spec.input_size,
        crop=_CROP,
        shortest_side=round(spec.input_size / _CROP),
        origin=f"{model} of {record['name']}, SHA-256 {record['sha256']}",
        spec=spec,
        variables=variables,
    )
