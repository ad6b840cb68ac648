"""Keep the training images on the devices, so that a step reads nothing from the host.

if is_resident("auto", cache, indices, mesh):
    batches = ResidentLoader(train_loader, put(cache, indices, mesh))
for batch in batches(start=step, stop=2 * batches.steps_per_epoch):
    ...     # {'pixels', 'starts', 'sizes', 'labels', 'indices'}
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from seeflower_jax import sharding
from seeflower_jax.data.loader import Batch, PixelsByIndex, TrainLoader

AUTO, ALWAYS, NEVER = CHOICES = ("auto", "always", "never")
_SHARE = 8  # `AUTO` takes at most this fraction of the memory of a device
_MAX_PIXELS = 2**31  # positions are int32


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Images in the memory of every device.

    Attributes:
      pixels: the pixels of all images, row after row.
      starts: the first pixel of each image.
      sizes: (height, width) of each image.
    """

    pixels: UInt8[Array, "p 3"]
    starts: Int[Array, " n"]
    sizes: Int[Array, "n 2"]


def is_resident(
    choice: str, cache: PixelsByIndex, indices: Int[np.ndarray, " n"], mesh: Mesh
) -> bool:
    """Return whether the images of a stage live on the devices.

    Args:
      choice: one of `CHOICES`. 'auto' is True on GPUs that report their memory, if the
        images take at most an eighth of it. On a CPU, 'auto' is False, because the
        pages of the cache file are in its memory anyway.
      cache: the images.
      indices: the images of the stage.
      mesh: the devices, from `sharding.make_mesh`.

    Raises:
      ValueError: if `choice` is 'always' and the images have too many pixels.
    """
    pixels = int(cache.sizes[indices].astype(np.int64).prod(axis=1).sum())
    if choice == ALWAYS and pixels >= _MAX_PIXELS:
        raise ValueError(
            f"config.data.on_device is 'always', but the training images have {pixels} "
            f"pixels; expected less than {_MAX_PIXELS}; give 'auto', or a smaller "
            "config.data.shortest_side"
        )
    if choice != AUTO:
        return choice == ALWAYS
    memory = min(map(_memory, mesh.local_devices))
    return pixels < _MAX_PIXELS and 3 * pixels * _SHARE <= memory


def _memory(device: jax.Device) -> int:
    """Return the bytes of memory of a GPU, or 0 if they are unknown."""
    stats = device.memory_stats() if device.platform == "gpu" else None
    return (stats or {}).get("bytes_limit", 0)


def put(cache: PixelsByIndex, indices: Int[np.ndarray, " n"], mesh: Mesh) -> Store:
    """Copy images to every device; the n-th image of the store is `indices[n]`."""
    sizes = cache.sizes[indices]
    pixels = np.concatenate([cache[index].reshape(-1, 3) for index in indices])
    ends = np.cumsum(sizes.astype(np.int64).prod(axis=1))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    arrays: Any = (pixels, starts, sizes)
    return Store(*sharding.replicate(arrays, mesh))


@dataclasses.dataclass(frozen=True, eq=False)
class ResidentLoader:
    """The batches of a `TrainLoader`, of images on the devices.

    The host sends the order of the examples once per epoch. The devices count the
    steps.

    Attributes:
      loader: decides which examples are in each batch; its reader is not used.
      store: the images of `loader.indices`.
      arrays: further arrays of the batches, with a row for each example by its index.
    """

    loader: TrainLoader
    store: Store
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full batches; an incomplete last batch is dropped."""
        return self.loader.steps_per_epoch

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of the steps from `start` to `stop` - 1.

        `pixels` of a batch has the pixels of all training images, and `starts` has the
        first pixel of each image of the batch.
        """
        while start < stop:
            epoch, first = divmod(start, self.steps_per_epoch)
            count = min(self.steps_per_epoch - first, stop - start)
            order = self._order(epoch)
            step = sharding.replicate(np.int32(first), self.loader.mesh)
            for _ in range(count):
                batch, step = self._take(self._examples, order, step)
                yield {"pixels": self.store.pixels, **batch}
            start += count

    @functools.cached_property
    def _examples(self) -> dict[str, jax.Array]:
        """Return the arrays of all training examples, on every device."""
        loader, store = self.loader, self.store
        rows = {"labels": loader.labels, **self.arrays}
        rows = {name: values[loader.indices] for name, values in rows.items()}
        rows = sharding.replicate(rows, loader.mesh)
        return {"starts": store.starts, "sizes": store.sizes, **rows}

    def _order(self, epoch: int) -> tuple[jax.Array, jax.Array]:
        """Return the positions and the numbers of the examples of each step."""
        loader = self.loader
        columns = loader.columns
        split = NamedSharding(loader.mesh, PartitionSpec(None, "data"))
        positions, numbers = (
            jax.make_array_from_process_local_data(
                split, values[:, columns].astype(np.int32)
            )
            for values in loader.epoch(epoch)
        )
        return positions, numbers

    @functools.cached_property
    def _take(self):
        """Return the jitted function (examples, order, step) -> (batch, next step)."""
        mesh = self.loader.mesh
        split = NamedSharding(mesh, PartitionSpec("data"))

        def take(examples, order, step):
            positions, numbers = (rows[step] for rows in order)
            batch = {name: rows[positions] for name, rows in examples.items()}
            return {**batch, "indices": numbers}, step + 1

        return jax.jit(take, out_shardings=(split, sharding.replicated(mesh)))
