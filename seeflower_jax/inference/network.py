"""Use a trained network on images: predict their classes and explain predictions.

    network = load("runs/inception_seed0")           # from seeflower_jax.inference.load
    for prediction in network.predict("photos/"):
        print(prediction.image, prediction.classes[0], prediction.probabilities[0])
    explanation = network.explain("rose.jpg", "grad_cam", target="rose")
    explanation.overlay().save("cam.png")

An export predicts without flax. Explanations need flax: they build the network again
from its spec and differentiate it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from seeflower_jax import hints
from seeflower_jax.data import decode, loader
from seeflower_jax.data.images import Images, find_file
from seeflower_jax.data.view import View
from seeflower_jax.data.whitening import Whitening
from seeflower_jax.evaluation import metrics
from seeflower_jax.inference import predict
from seeflower_jax.inference.predict import Prediction
from seeflower_jax.models.spec import ModelSpec

if TYPE_CHECKING:
    from PIL import Image

    from seeflower_jax.attribution.types import Layer
    from seeflower_jax.inference.explainer import Explainer

# The argument of `Images.of_files`.
Where = str | os.PathLike | Iterable[str | os.PathLike]


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """An attribution map of an image, with the prediction.

    Attributes:
      image: what the network sees, in [0, 255].
      map: raw values of the attribution method.
      signed: whether the sign of the map's values has a meaning.
      method: name of the attribution method.
      target: name of the explained class.
      prediction: the most probable classes of the image.
    """

    image: UInt8[np.ndarray, "s s 3"]
    map: Float[np.ndarray, "s s"]
    signed: bool
    method: str
    target: str
    prediction: Prediction

    def overlay(self) -> "Image.Image":
        """Draw the map in colours over the image in grey.

        Example: `explanation.overlay().save("cam.png")`.
        """
        from PIL import Image

        from seeflower_jax.figures import maps

        return Image.fromarray(maps.overlay(self.image, self.map, self.signed))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """A trained network from a run, an export or a weight file.

    Attributes:
      spec: what the network computes.
      variables: parameters and batch statistics, {'params', 'batch_stats'}.
      view: what the network sees of an image.
      class_names: name of each class, in the order of the logits.
      temperature: number that divides the logits for calibrated probabilities; 1 if
        none was fitted.
      preprocess: whitening applied to views before the network, or None.
      origin: the run directory, export or weight file, for records.
      program: function of an export, (variables, images) -> logits. `predict` calls the
        program instead of the function that `spec` describes.
    """

    spec: ModelSpec
    variables: dict
    view: View
    class_names: tuple[str, ...]
    temperature: float = 1.0
    preprocess: Whitening | None = None
    origin: str = ""
    program: Callable[[dict, Array], Array] | None = None

    def describe(self) -> dict[str, Any]:
        """Return the values that describe the network in `model.json` of an export."""
        return {
            "spec": self.spec.to_dict(),
            "class_names": list(self.class_names),
            "view": self.view.to_dict(),
            "temperature": self.temperature,
        }

    def bind(self, variables: dict | None = None) -> Callable:
        """Return the pure function network(images, taps=None) -> (logits, endpoints).

        Args:
          variables: variables of the network; its own variables by default.
        """
        from seeflower_jax import models

        variables = self.variables if variables is None else variables
        return models.bind(self.spec, variables, self.preprocess)

    @functools.cached_property
    def compute_logits(self) -> Callable[..., Float[Array, "n c"]]:
        """Return the jitted function (variables, canvas, sizes) -> logits of images."""

        @jax.jit
        def compute(variables: dict, canvas: Array, sizes: Int[Array, "n 2"]) -> Array:
            images = self.view(canvas, sizes)
            if self.program is not None:
                return self.program(variables, images)
            return self.bind(variables)(images)[0]

        return compute

    def see(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """Return what the network sees of an image, rounded for display."""
        side = self.view.canvas_side
        batch = loader.to_canvas([self.view.trim(pixels)], side, side)
        image = self._view(batch["canvas"], batch["sizes"])[0]
        return np.asarray(image.round()).astype(np.uint8)

    @functools.cached_property
    def _view(self) -> Callable[..., Float[Array, "n s s 3"]]:
        return jax.jit(self.view.__call__)

    def probabilities(
        self, logits: Float[np.ndarray, "n c"]
    ) -> Float[np.ndarray, "n c"]:
        """Return the calibrated probabilities of logits."""
        return np.exp(metrics.log_softmax(np.asarray(logits) / self.temperature))

    def images(self, where: "Images | Where") -> Images:
        """List image files, to be decoded at the same size as the training images.

        Args:
          where: a folder, a pattern, a .txt list, a file, or several of them. `Images`
            are returned unchanged.

        Raises:
          FileNotFoundError: if there are no images.
        """
        if isinstance(where, Images):
            return where
        return Images.of_files(where, self.view.shortest_side, self.class_names)

    def predict(
        self, where: "Images | Where", top: int = 5, batch_size: int = 16
    ) -> list[Prediction]:
        """Predict the classes of images, in batches.

        Args:
          where: the images, as in `images`.
          top: number of classes in each prediction.
          batch_size: number of images at once, rounded up to a multiple of the devices.

        Returns:
          A prediction for each image, in order.

        Raises:
          FileNotFoundError: if there are no images.
          UnreadableImage: if a file is not an image; the message names the file. Use
            `predict.stream` to skip such files.
          ValueError: if the network gives logits that are not finite.

        Example:
          >>> for prediction in network.predict("photos/", top=1):
          ...     print(prediction.image, prediction.classes[0])
        """
        predictions = []
        for prediction in predict.stream(self, self.images(where), top, batch_size):
            if isinstance(prediction, Exception):
                raise prediction
            predictions.append(prediction)
        return predictions

    def explain(
        self,
        image: str | os.PathLike,
        method: str = "grad_cam",
        target: str | int = "predicted",
        layer: "Layer | None" = None,
        **options: float | str,
    ) -> Explanation:
        """Explain the prediction for an image.

        Args:
          image: path of an image file. Folders, patterns and lists are refused;
            `seeflower_jax.attribute` explains many images.
          method: attribution method, a key of `attribution.registry.METHODS`.
          target: the class to explain: 'predicted', a class name or a class index.
          layer: layer of class activation maps, several layers, or "head" for all
            layers that the head reads; None is the network's default.
          **options: options of the method, such as `steps=8` or `align="stretch"`.

        Raises:
          FileNotFoundError: if the file does not exist.
          UnreadableImage: if the file is not an image.
          ValueError: if the method, an option, the target or the layer is unknown, or
            if the network gives logits that are not finite.

        Example:
          >>> network.explain("rose.jpg", target="rose").overlay().save("cam.png")
        """
        from seeflower_jax.attribution import registry

        label = class_index(target, self.class_names)
        explainer = self._explainer(method, layer, options)
        path = find_file(image)
        pixels = decode.load_pixels(path.read_bytes, self.view.shortest_side, path)
        explained = explainer([0], [pixels], [label])
        predict.check_finite(explained.logits, [str(image)], self.origin)
        probabilities = self.probabilities(explained.logits)[0]
        return Explanation(
            explained.images[0].round().astype(np.uint8),
            explained.maps[method][0],
            registry.METHODS[method].signed,
            method,
            self.class_names[explained.targets[0]],
            predict.rank(str(image), probabilities, self.class_names, 5),
        )

    @functools.cached_property
    def _explainers(self) -> dict[tuple, "Explainer"]:
        return {}

    def _explainer(
        self,
        method: str,
        layer: "Layer | None",
        options: Mapping[str, float | str],
    ) -> "Explainer":
        """Return an explainer of single images, compiled once for each argument set."""
        from seeflower_jax.attribution import registry
        from seeflower_jax.inference.explainer import Explainer

        registry.check_methods([method])
        registry.check_options(method, options)
        names = layer if isinstance(layer, str | None) else tuple(layer)
        key = method, names, tuple(sorted(options.items()))
        if key not in self._explainers:
            self._explainers[key] = Explainer(
                self, [method], layer, 1, {method: options}
            )
        return self._explainers[key]


def class_index(
    target: str | int,
    class_names: Sequence[str],
    other_words: Sequence[str] = ("predicted",),
) -> int:
    """Return the index of a class from its name or index; -1 for 'predicted'.

    Args:
      target: 'predicted', a class name or a class index, which may be text.
      class_names: class names of the network.
      other_words: words that a user may type instead of a class; () allows no words.

    Raises:
      ValueError: if the name is unknown or the index is out of range.
    """
    if target == "predicted" and target in other_words:
        return -1
    if target in class_names:
        return list(class_names).index(str(target))
    if str(target).isdecimal() and int(target) < len(class_names):
        return int(target)
    hint = hints.did_you_mean(str(target), [*other_words, *class_names])
    words = "".join(f"{word!r}, " for word in other_words)
    raise ValueError(
        f"unknown class {target!r}: expected {words}a class name or an index from 0 to "
        f"{len(class_names) - 1}{hint}"
    )
