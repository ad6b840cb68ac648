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
from seeflower_jax import network as networks
from seeflower_jax.data.cache import center_view, decode
from seeflower_jax.network import Interface, Network


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
      interface: of that function.
      network: gives the network, for maps.
    """

    logits: Callable
    interface: Interface
    network: Callable[[], Network]

    def predict(
        self, paths: Iterable, top: int = 5
    ) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """(path, the `top` classes with their probabilities) of each picture.

        Raises:
          PictureError: for a file that is no picture.
        """
        names, temperature = self.interface.class_names, self.interface.temperature
        for path in paths:
            picture = self._load(path)
            logits = np.asarray(self.logits(picture[None]))[0]
            probabilities = np.asarray(jax.nn.softmax(logits / temperature))
            best = np.argsort(-probabilities, kind="stable")[:top]
            yield str(path), [(names[i], float(probabilities[i])) for i in best]

    def _load(self, path: str | os.PathLike) -> np.ndarray:
        view = self.interface
        return load_picture(path, view.size, view.crop, view.keep_aspect)

    @functools.cached_property
    def _maps(self) -> Callable:
        """image uint8 [size, size, 3] -> Grad-CAM of its predicted class."""
        from seeflower_jax.attribution import batch, registry

        network = self.network()
        explain = batch.make_explainer(
            network.spec,
            ["grad_cam"],
            preprocess=network.preprocess,
            size=network.size,
        )
        target = np.array([registry.PREDICTED])
        keys = jax.random.split(jax.random.key(0), 1)
        return lambda image: explain(network.variables, image[None], target, keys)[2][
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


def _of_network(network: Network) -> Classifier:
    from seeflower_jax import models

    bound = models.bind(network.spec, network.variables, network.preprocess)
    return Classifier(
        jax.jit(lambda images: bound(images)[0]), network, lambda: network
    )


def from_weights(model: str, weights: str) -> Classifier:
    """The network of a weight file that has its classifier.

    Raises:
      ValueError: if the file does not fit the network or has no classifier.
    """
    return _of_network(networks.from_weights(model, weights))


def from_run(workdir: str | os.PathLike) -> Classifier:
    """The best variables of a run directory, on pictures as its evaluation sees them.

    Raises:
      FileNotFoundError: if it is no run directory.
    """
    from seeflower_jax import experiment

    return _of_network(experiment.load_run(workdir))


def from_export(folder: str | os.PathLike) -> Classifier:
    """An exported network; the code for networks is taken for maps alone.

    Raises:
      ValueError: if the folder holds none.
    """
    logits, described = exported.load(folder)
    return Classifier(
        logits,
        networks.interface(described),
        functools.partial(networks.from_export, folder),
    )
