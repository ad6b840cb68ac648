"""Compute attribution maps of a network for decoded images.

    explainer = Explainer(network, ["grad_cam"], batch_size=16)
    explained = explainer(positions, pixels, targets)
    explained.maps["grad_cam"]        # float32 [n, size, size]
    for batch, explained in explainer.stream(read_batches(images, 16), labels):
        ...     # meanwhile the device computes the next batch

The network's view is applied on the device, and several devices share a batch.
"""

import dataclasses
from collections.abc import Generator, Iterable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from seeflower_jax import sharding
from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution import regions, registry
from seeflower_jax.attribution.types import Layer
from seeflower_jax.data.loader import ImageBatch, ahead
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.predict import place_images, whole_batch_size


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """Images and their attribution maps, on the host.

    Attributes:
      images: what the network sees of each image.
      logits: logits of each image.
      targets: class index that the maps of each image explain.
      maps: maps of all images, by method.
      boxes: for class activation maps, what `regions.bounding_boxes` returns.
    """

    images: Float[np.ndarray, "n s s 3"]
    logits: Float[np.ndarray, "n c"]
    targets: Int[np.ndarray, " n"]
    maps: dict[str, Float[np.ndarray, "n s s"]]
    boxes: dict[str, Int[np.ndarray, "n 4"]]

    def __getitem__(self, rows: slice | Sequence[int]) -> "Explained":
        """Return some of the images."""
        values = self.images, self.logits, self.targets, self.maps, self.boxes
        return Explained(*jax.tree.map(lambda array: array[rows], values))


class Explainer:
    """Compiled attribution methods of one network.

    Args:
      network: the network to explain.
      methods: names of the methods, keys of `attribution.registry.METHODS`.
      layer: layer of class activation maps, several layers, or "head"; by default
        what `attribution.batch.map_layer` returns.
      batch_size: number of images at once, rounded up to a multiple of the devices.
      options: options of each method, as `attribution.batch.make_explainer` takes them.

    Raises:
      ValueError: if a method or an option is unknown, or if the layer has no map.
    """

    def __init__(
        self,
        network: Network,
        methods: Sequence[str],
        layer: Layer | None = None,
        batch_size: int = 16,
        options: Mapping[str, Mapping] | None = None,
    ):
        self.network = network
        self._mesh = sharding.make_mesh()
        self.batch_size = whole_batch_size(batch_size, self._mesh)
        self._variables = sharding.replicate(network.variables, self._mesh)
        self._explain = attribution_batch.make_explainer(
            network.spec,
            methods,
            layer,
            network.preprocess,
            network.view.size,
            options,
            checked=False,  # The view computes the images from integers.
        )
        self._layered = [m for m in methods if registry.METHODS[m].layered]
        self._boxes = jax.jit(regions.bounding_boxes)

        @jax.jit
        def prepare(canvas, sizes, positions):
            # Keys depend only on positions, so an export and its run give equal maps.
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), positions)
            return network.view(canvas, sizes), keys

        self._prepare = prepare

    def __call__(
        self,
        positions: Sequence[int] | Int[np.ndarray, " n"],
        pixels: Sequence[UInt8[np.ndarray, "h w 3"]],
        targets: Sequence[int] | Int[np.ndarray, " n"],
    ) -> Explained:
        """Compute the maps of up to `batch_size` images.

        Args:
          positions: number of each image, which seeds methods with random noise.
          pixels: pixels of each image, from `Images.read`.
          targets: class index for each image; -1 is the predicted class.
        """
        return _to_host(self._start(positions, pixels, targets), len(pixels))

    def stream(
        self, batches: Iterable[ImageBatch], targets: Int[np.ndarray, " n"]
    ) -> Generator[tuple[ImageBatch, Explained | None], None, None]:
        """Yield each batch with its maps, while the device computes the next batch.

        Args:
          batches: batches from `data.loader.read_batches`.
          targets: class index of each image by its position; -1 is the predicted class.

        Yields:
          (batch, explained); `explained` is None if no image could be read.
        """

        def start(batch: ImageBatch) -> tuple | None:
            if not batch.positions:
                return None
            labels = targets[batch.positions]
            return self._start(batch.positions, batch.pixels, labels)

        for batch, arrays in ahead(((batch, start(batch)) for batch in batches), 1):
            count = len(batch.positions)
            yield batch, None if arrays is None else _to_host(arrays, count)

    def _start(
        self,
        positions: Sequence[int] | Int[np.ndarray, " n"],
        pixels: Sequence[UInt8[np.ndarray, "h w 3"]],
        targets: Sequence[int] | Int[np.ndarray, " n"],
    ) -> tuple:
        """Start the computation of `Explained`, without waiting for it."""
        rows = np.resize(np.arange(len(pixels)), self.batch_size)
        placed = place_images(
            pixels,
            self.network.view,
            self.batch_size,
            self._mesh,
        )
        by_row = {
            "positions": np.array(positions, np.int32)[rows],
            "targets": np.array(targets, np.int32)[rows],
        }
        placed |= sharding.shard_batch(by_row, self._mesh)
        labels = placed.pop("targets")
        images, keys = self._prepare(**placed)
        logits, labels, maps = self._explain(self._variables, images, labels, keys)
        boxes = {name: self._boxes(maps[name]) for name in self._layered}
        return images, logits, labels, maps, boxes


def _to_host(arrays: tuple, count: int) -> Explained:
    """Wait for arrays of `Explainer._start`; return the rows of the first images."""
    return Explained(*jax.device_get(arrays))[:count]
