"""Classes of picture files by a trained, published or exported network.

    classifier = from_weights("vgg16", "vgg16_weights.h5")     # ImageNet's classes
    classifier = from_run("runs/inception_seed0")              # of a trained run
    classifier = from_export("flowers")                        # of scripts.export
    for path, top in classifier.predict(paths, top=5):
        name, probability = top[0]
        shown = classifier.explain(path)      # the picture beside its Grad-CAM

Probabilities are calibrated by the temperature that was fitted on the validation split
of a run; of published weights, they are as they come. What one of them needs is
imported by it: an exported network takes none of the code for networks, weights and
training.
"""

import dataclasses
import functools
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
      network: gives the ModelSpec, variables and preprocessing, for maps.
      crop: the central square's share of a picture's shortest side.
      keep_aspect: False where pictures are squashed to squares.
      temperature: that logits are divided by.
    """

    logits: Callable
    class_names: tuple[str, ...]
    size: int
    network: Callable
    crop: float = 0.875
    keep_aspect: bool = True
    temperature: float = 1.0

    def predict(
        self, paths: Iterable, top: int = 5
    ) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """(path, the `top` classes with their probabilities) of each picture.

        Raises:
          PictureError: for a file that is no picture.
        """
        for path in paths:
            picture = self._load(path)
            logits = np.asarray(self.logits(picture[None]))[0]
            probabilities = np.asarray(jax.nn.softmax(logits / self.temperature))
            best = np.argsort(-probabilities, kind="stable")[:top]
            yield (
                str(path),
                [(self.class_names[i], float(probabilities[i])) for i in best],
            )

    def _load(self, path: str | os.PathLike) -> np.ndarray:
        return load_picture(path, self.size, self.crop, self.keep_aspect)

    @functools.cached_property
    def _maps(self) -> Callable:
        """image uint8 [size, size, 3] -> Grad-CAM of its predicted class."""
        from seeflower_jax.attribution import batch

        spec, variables, preprocess = self.network()
        layer = batch.map_layer(spec, self.size)
        explain = batch.make_explainer(spec, ["grad_cam"], layer, preprocess)
        target = np.array([batch.PREDICTED])
        keys = jax.random.split(jax.random.key(0), 1)
        return lambda image: explain(variables, image[None], target, keys)[2][
            "grad_cam"
        ]

    def explain(self, path: str | os.PathLike) -> np.ndarray:
        """A picture beside its Grad-CAM (of the predicted class), uint8 [H, 2 W, 3].

        Raises:
          PictureError: for a file that is no picture.
        """
        from seeflower_jax.report import attribution as figures

        picture = self._load(path)
        (values,) = np.asarray(self._maps(picture))
        return np.concatenate([picture, figures.overlay(picture, values, False)], 1)


def _of_network(spec, variables, preprocess, class_names, size, **options):
    from seeflower_jax import models

    network = models.bind(spec, variables, preprocess)
    return Classifier(
        jax.jit(lambda images: network(images)[0]),
        class_names,
        size,
        lambda: (spec, variables, preprocess),
        **options,
    )


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
    return _of_network(spec, variables, None, names, spec.input_size)


def from_run(workdir: str | os.PathLike) -> Classifier:
    """The best variables of a run directory, on pictures as its evaluation sees them.

    Raises:
      FileNotFoundError: if it is no run directory.
    """
    from seeflower_jax import experiment
    from seeflower_jax.evaluation import predict

    run = experiment.load_run(workdir)
    return _of_network(
        run.spec,
        run.variables,
        run.preprocess,
        run.class_names,
        run.size,
        crop=run.config.eval.crop,
        temperature=run.temperature,
        keep_aspect=predict.keeps_aspect(run.config.eval),
    )


def from_export(folder: str | os.PathLike) -> Classifier:
    """An exported network; the code for networks is taken for maps alone.

    Raises:
      ValueError: if the folder holds none.
    """
    logits, described = exported.load(folder)

    def network():
        from seeflower_jax import models
        from seeflower_jax.data import whitening

        spec = models.ModelSpec(**described["spec"])
        path = pathlib.Path(folder).expanduser() / whitening.FILE_NAME
        preprocess = whitening.load(path) if path.exists() else None
        return spec, exported.load_variables(folder), preprocess

    return Classifier(
        logits,
        tuple(described["class_names"]),
        described["size"],
        network,
        described["crop"],
        described.get("keep_aspect", True),
        described.get("temperature", 1.0),
    )
