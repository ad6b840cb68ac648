"""Predict the classes of images in batches, while the next batch is read.

for prediction in stream(network, network.images("photos/")):
    ...     # a `Prediction`, or an `UnreadableImage` error
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from seeflower_jax import hints, sharding
from seeflower_jax.data import loader
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images
from seeflower_jax.data.view import View
from seeflower_jax.evaluation import metrics

if TYPE_CHECKING:
    from seeflower_jax.inference.network import Network


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image.

    Attributes:
      image: name of the image.
      classes: names of the classes, the most probable first.
      probabilities: probability of each class, calibrated by the network's temperature.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def rank(
    name: str,
    probabilities: Float[np.ndarray, " c"],
    class_names: Sequence[str],
    top: int,
) -> Prediction:
    """Return the `top` most probable classes of the image `name`."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return Prediction(
        name,
        tuple(class_names[i] for i in order),
        tuple(float(probabilities[i]) for i in order),
    )


def check_finite(
    logits: Float[np.ndarray, "n c"], names: Sequence[str], origin: str
) -> None:
    """Check that a network gives finite logits for images.

    Args:
      logits: logits of each image.
      names: name of each image.
      origin: origin of the network.

    Raises:
      ValueError: if logits are not finite; the message names the network and the image.
    """
    finite = metrics.are_finite(logits)
    if not finite.all():
        name = names[int(finite.argmin())]
        raise ValueError(
            f"{origin} gives logits that are not finite for {name}; its weights or its "
            "preprocessing are wrong"
        )


def whole_batch_size(batch_size: int, mesh: Mesh) -> int:
    """Return the batch size, rounded up to a multiple of the devices.

    Raises:
      ValueError: if the batch size is below 1.
    """
    hints.check_count("batch_size", batch_size)
    return sharding.whole_size(batch_size, mesh)


def place_images(
    pixels: Sequence[UInt8[np.ndarray, "h w 3"]],
    view: View,
    batch_size: int,
    mesh: Mesh,
) -> dict[str, Array]:
    """Place images on the devices as a batch; repeated images fill the batch.

    All batches have the same shape, so JAX compiles only one program for them.

    Args:
      pixels: pixels of up to `batch_size` images.
      view: view of the network; the parts that it does not show are cut off.
      batch_size: number of rows of the batch, a multiple of the devices.
      mesh: the devices, from `sharding.make_mesh`.

    Returns:
      A dict of `canvas` and `sizes` for `View`, with `batch_size` rows each.
    """
    side = view.canvas_side
    rows = np.resize(np.arange(len(pixels)), batch_size).tolist()
    canvas = loader.to_canvas([view.trim(pixels[row]) for row in rows], side, side)
    return sharding.shard_batch(canvas, mesh)


def stream(
    network: "Network", images: Images, top: int = 5, batch_size: int = 16
) -> Iterator[Prediction | UnreadableImage]:
    """Yield a prediction for each image, in order, or an error if it is unreadable.

    Args:
      network: a trained network.
      images: images from `Network.images`.
      top: number of classes in each prediction.
      batch_size: number of images at once, rounded up to a multiple of the devices.

    Raises:
      ValueError: if the network gives logits that are not finite.

    Example:
      >>> for prediction in stream(network, network.images("photos/")):
      ...     if isinstance(prediction, UnreadableImage):
      ...         print("skipped:", prediction)
    """
    if top < 1 or batch_size < 1:
        raise ValueError(
            f"top is {top} and batch_size is {batch_size}; expected 1 or more of each"
        )
    if not len(images):
        return
    mesh = sharding.make_mesh()
    batch_size = whole_batch_size(min(batch_size, len(images)), mesh)
    variables = sharding.replicate(network.variables, mesh)
    for batch in loader.read_batches(images, batch_size):
        results: dict[int, Prediction | UnreadableImage] = dict(batch.errors)
        if batch.positions:
            placed = place_images(batch.pixels, network.view, batch_size, mesh)
            logits = network.compute_logits(variables, **placed)
            results |= _predictions(network, images, batch, np.asarray(logits), top)
        yield from (results[position] for position in sorted(results))


def _predictions(
    network: "Network",
    images: Images,
    batch: loader.ImageBatch,
    logits: Float[np.ndarray, "n c"],
    top: int,
) -> dict[int, Prediction]:
    """Return the predictions by the positions of the images.

    Raises:
      ValueError: if the logits of an image are not finite.
    """
    logits = logits[: len(batch.positions)]
    names = [images.names[position] for position in batch.positions]
    check_finite(logits, names, network.origin)
    probabilities = network.probabilities(logits)
    return {
        position: rank(name, row, network.class_names, top)
        for position, name, row in zip(
            batch.positions, names, probabilities, strict=True
        )
    }
