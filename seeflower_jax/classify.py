"""Classes of picture files by a trained, published or exported network.

    classifier = from_weights("vgg16", "vgg16_weights.h5")     # ImageNet's classes
    classifier = from_run("runs/inception_seed0")              # of a trained run
    classifier = from_export("flowers")                        # of scripts.export
    for path, top in classifier.predict(paths, top=5):
        name, probability = top[0]

What one of them needs is imported by it: an exported network takes none of the code for
networks, weights and training.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from seeflower_jax import exported
from seeflower_jax.data.cache import center_view, decode


class PictureError(ValueError):
    """A picture cannot be read."""


def load_picture(
    path: str | os.PathLike, size: int, crop: float = 0.875, keep_aspect: bool = True
):
    """The central square of a picture, uint8 [size, size, 3].

    Args:
      path: of the file.
      size: in pixels, of the result.
      crop, keep_aspect: see `cache.center_view`.

    Raises:
      PictureError: if there is no such file or it is no picture.
    """
    try:
        image = decode(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise PictureError(f"{path} cannot be read as a picture: {error}") from error
    return center_view(image, size, crop, keep_aspect)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A function of pictures with what it needs to be used.

    Attributes:
      logits: uint8 [N, size, size, 3] -> [N, classes].
      class_names: of the logits.
      size: side of the pictures in pixels.
      crop: the central square's share of a picture's shortest side.
      keep_aspect: False where pictures are squashed to squares.
    """

    logits: Callable
    class_names: tuple[str, ...]
    size: int
    crop: float = 0.875
    keep_aspect: bool = True

    def predict(
        self, paths: Iterable, top: int = 5
    ) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """(path, the `top` classes with their probabilities) of each picture.

        Raises:
          PictureError: for a file that is no picture.
        """
        for path in paths:
            picture = load_picture(path, self.size, self.crop, self.keep_aspect)
            logits = np.asarray(self.logits(picture[None]))[0]
            probabilities = np.asarray(jax.nn.softmax(logits))
            best = np.argsort(-probabilities, kind="stable")[:top]
            yield (
                str(path),
                [(self.class_names[i], float(probabilities[i])) for i in best],
            )


def _bind(spec, variables, preprocess=None) -> Callable:
    from seeflower_jax import models

    @jax.jit
    def logits(images):
        images = images.astype("float32")
        return models.apply(
            spec, variables, preprocess(images) if preprocess else images
        )[0]

    return logits


def from_weights(model: str, weights: str) -> Classifier:
    """The network of a weight file that has its classifier.

    Raises:
      ValueError: if the file does not fit the network or has no classifier.
    """
    from seeflower_jax.pretrained import catalog, imagenet

    spec, variables, _ = catalog.load_classifier(model, weights)
    names = imagenet.class_names()
    if spec.num_classes != len(names):
        names = tuple(f"class {index}" for index in range(spec.num_classes))
    return Classifier(_bind(spec, variables), names, spec.input_size)


def from_run(workdir: str | os.PathLike) -> Classifier:
    """The best variables of a run directory, on pictures as its evaluation sees them.

    Raises:
      FileNotFoundError: if it is no run directory.
    """
    from seeflower_jax import experiment
    from seeflower_jax.evaluation import predict

    run = experiment.load_run(workdir)
    preprocess = experiment.load_preprocess(run.config, run.workdir)
    size = run.config.eval.size or run.spec.input_size
    return Classifier(
        _bind(run.spec, run.variables, preprocess),
        run.class_names,
        size,
        run.config.eval.crop,
        predict.keeps_aspect(run.config.eval),
    )


def from_export(folder: str | os.PathLike) -> Classifier:
    """An exported network.

    Raises:
      ValueError: if the folder holds none.
    """
    logits, described = exported.load(folder)
    names = tuple(described["class_names"])
    return Classifier(
        logits,
        names,
        described["size"],
        described["crop"],
        described.get("keep_aspect", True),
    )
