"""Load a network from a run directory, an export or a weight file.

    network = load("runs/inception_seed0")
    network = load("flowers")                               # from scripts.export
    network = load("vgg16_weights.h5", model="vgg16")       # classes of ImageNet

`load` imports only the modules that it needs. An export needs neither flax nor orbax.
"""

import os
import pathlib

from seeflower_jax import hints
from seeflower_jax.data.view import View
from seeflower_jax.inference import export
from seeflower_jax.inference.network import Network

_CROP = 0.875  # crop of published networks: 224 of 256 pixels


def load(
    where: str | os.PathLike, model: str | None = None, preprocess: str | None = None
) -> Network:
    """Return a trained network, ready to predict and explain.

    Args:
      where: a run directory, an export, or a weight file that includes the classifier.
        'imagenet:top' downloads a weight file.
      model: name of the network of a weight file, a key of `models.MODELS`; None for
        runs and exports.
      preprocess: only with `model`: the preprocessing that the weights expect, a key of
        `models.PREPROCESS`. By default it follows from the file, from its hash, or from
        its format. A warning says if it is assumed from the format.

    Raises:
      FileNotFoundError: if the file or folder does not exist.
      ValueError: if `where` is neither a run, an export nor a weight file.

    Example:
      >>> load("flowers").predict("rose.jpg")[0].classes[0]
      'rose'
    """
    path = pathlib.Path(where).expanduser()
    is_run = (path / "config.json").exists()
    if model is not None:
        if is_run or export.is_export(path):
            raise ValueError(f"{where} is a run or an export; call load without model=")
        return load_weights(model, str(where), preprocess)
    if preprocess is not None:
        raise ValueError(
            f"preprocess={preprocess!r} needs model=: a run or an export has its own "
            "preprocessing"
        )
    if is_run:
        from seeflower_jax.inference.run import load_run

        return load_run(path).network
    if export.is_export(path):
        return export.load(path)
    if str(where).partition(":")[0] == "imagenet":
        raise ValueError(
            f"{where!r} needs the name of a network, as in load({where!r}, "
            "model='vgg16')"
        )
    if not path.exists():
        hint = hints.did_you_mean_path(path)
        raise FileNotFoundError(f"there is no file or folder {where}{hint}")
    if path.is_file():
        raise ValueError(
            f"{where} is a file; name the network of its weights, as in "
            "load(where, model='vgg16')"
        )
    raise ValueError(
        f"{where} is neither a run directory (it has no config.json) nor a complete "
        f"export (it lacks {', '.join(export.missing_files(path))}); for a folder of "
        "converted weights, name the network, as in load(where, model='vgg16')"
    )


def load_weights(model: str, weights: str, preprocess: str | None = None) -> Network:
    """Return the network of a weight file that includes the classifier.

    Args:
      model: name of the network, a key of `models.MODELS`.
      weights: path of a file of Keras or torchvision, or 'imagenet:top', which
        downloads a file.
      preprocess: as in `load`.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if the file does not fit the network or has no classifier.
    """
    from seeflower_jax.pretrained import imagenet, loading

    spec, variables, record = loading.load_classifier(
        model, weights, preprocess=preprocess
    )
    names = imagenet.class_names()
    if spec.num_classes != len(names):
        names = tuple(f"class {index}" for index in range(spec.num_classes))
    return Network(
        spec=spec,
        variables=variables,
        view=View(spec.input_size, round(spec.input_size / _CROP), _CROP),
        class_names=names,
        origin=f"{model} of {record['name']}, SHA-256 {record['sha256']}",
    )
