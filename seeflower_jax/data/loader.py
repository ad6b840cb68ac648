"""Make batches in a fixed order while the device computes.

    train = TrainLoader(dataset.reader, labels, indices, 32, mesh, seed=(0, 1))
    for batch in train(start=step, stop=2 * train.steps_per_epoch):
        ...     # {'canvas', 'sizes', 'labels', 'indices'}, split over the mesh
    for batch in eval_batches(dataset.reader, indices, 32, mesh):
        ...     # {'canvas', 'sizes'}
    for batch in read_batches(images, 32):
        ...     # `ImageBatch`, with errors for unreadable files

The batch of a training step depends only on (seed, step). A run that resumes at step k
therefore gets the same batches as a run without an interruption. Several threads make
batches at the same time.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from seeflower_jax import records, sharding
from seeflower_jax.data.balance import NONE, balanced_order
from seeflower_jax.data.buffers import Buffers
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images

Batch = dict[str, jax.Array]
Made = TypeVar("Made")
# The pixels of an image and its original size or None, or the error of reading it.
_Read = tuple[np.ndarray, tuple[int, int] | None] | UnreadableImage
# Two batches bridge files that decode slowly, and take little memory.
_BATCHES_AHEAD = 2
# More threads would not copy pixels faster: the bandwidth of memory limits them.
THREADS = min(4, records.cores())


class Reader(Protocol):
    """A function from indices to examples: images as canvas and sizes, or features."""

    def __call__(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]: ...


def to_canvas(
    pixels: Sequence[UInt8[np.ndarray, "h w 3"]], height: int, width: int
) -> dict[str, np.ndarray]:
    """Put each image into the upper left corner of a canvas [n, height, width, 3].

    Returns:
      A dict. `canvas` is uint8. `sizes` is int32 [n, 2], the (height, width) of each
      image.
    """
    canvas = np.zeros((len(pixels), height, width, 3), np.uint8)
    for row, image in zip(canvas, pixels, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    sizes = np.array([image.shape[:2] for image in pixels], np.int32).reshape(-1, 2)
    return {"canvas": canvas, "sizes": sizes}


class PixelsByIndex(Protocol):
    """Images by index with their `sizes` [n, 2], such as a `PixelCache`."""

    sizes: np.ndarray

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]: ...


class ImageReader:
    """A reader of the images of a pixel cache, as canvases of one shape.

    Pixels of a canvas outside of its image may have any value. `View` ignores them.
    """

    def __init__(self, cache: PixelsByIndex):
        self._cache, self._buffers = cache, Buffers()
        self._height, self._width = (int(side) for side in cache.sizes.max(axis=0))

    def __call__(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        shape = (len(indices), self._height, self._width, 3)
        canvas = self._buffers.take(shape)
        for row, index in zip(canvas, indices, strict=True):
            image = self._cache[index]
            row[: image.shape[0], : image.shape[1]] = image
        return {"canvas": canvas, "sizes": self._cache.sizes[indices]}


class FeatureReader:
    """A reader of the rows of an array of features, which may be a memory-mapped file.

    Args:
      features: rows of features.
      indices: indices of the examples.
      rows: row of each example.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "m c"],
        indices: Int[np.ndarray, " n"],
        rows: Int[np.ndarray, " n"],
    ):
        self._features = features
        self._row_by_index = np.zeros(indices.max() + 1, np.int64)
        self._row_by_index[indices] = rows

    def __call__(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        return {"features": np.array(self._features[self._row_by_index[indices]])}


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A reader that adds an array to the batches of another reader.

    Attributes:
      reader: reader of images or of features.
      name: key of the array in a batch.
      rows: row of each example, by its index.
    """

    reader: Reader
    name: str
    rows: np.ndarray

    def __call__(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        return self.reader(indices) | {self.name: self.rows[indices]}


def epoch_order(
    seed: Sequence[int], epoch: int, count: int
) -> Int[np.ndarray, " count"]:
    """Return the order of `count` examples in an epoch, as a permutation."""
    return np.random.default_rng((*seed, epoch)).permutation(count)


@dataclasses.dataclass(frozen=True)
class TrainLoader:
    """The training batches of a stage.

    Attributes:
      reader: reader of images or of features.
      labels: labels of all examples of the data set.
      indices: indices of the examples to train on.
      batch_size: number of examples in a batch, over all devices.
      mesh: the devices, from `sharding.make_mesh`.
      seed: integers that seed the order of each epoch.
      balance: one of `balance.BALANCES`. 'none' yields every example once per epoch.
        'sampling' yields every class equally often, in the same number of steps.
      threads: number of threads that make batches.

    Raises:
      ValueError: if the examples do not fill a batch.
    """

    reader: Reader
    labels: Int[np.ndarray, " n"]
    indices: Int[np.ndarray, " m"]
    batch_size: int
    mesh: Mesh
    seed: tuple[int, ...]
    balance: str = NONE
    threads: int = THREADS

    def __post_init__(self) -> None:
        if len(self.indices) < self.batch_size:
            raise ValueError(
                f"a batch of {self.batch_size} is more than the {len(self.indices)} "
                "training examples; set the stage's batch_size to at most "
                f"{len(self.indices)}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full batches; an incomplete last batch is dropped."""
        return len(self.indices) // self.batch_size

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of the steps from `start` to `stop` - 1.

        `indices` of a batch seeds the random numbers of the examples. With balanced
        sampling, the k-th repeat in an epoch adds k times the number of labels. If the
        devices do not divide a batch, copies of its first examples pad it.
        """

        def make(indices: np.ndarray, numbers: np.ndarray) -> Batch:
            batch = self.reader(indices) | {
                "labels": self.labels[indices],
                "indices": numbers.astype(np.int32),
            }
            return sharding.shard_batch(batch, self.mesh)

        return _prefetch(make, self._rows(start, stop), self.threads)

    def _rows(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices and numbers of this process's examples in each step."""
        columns = self.columns
        while start < stop:
            epoch, first = divmod(start, self.steps_per_epoch)
            last = min(self.steps_per_epoch, first + stop - start)
            rows, numbers = self.epoch(epoch)
            for step in range(first, last):
                yield self.indices[rows[step, columns]], numbers[step, columns]
            start += last - first

    @property
    def columns(self) -> Int[np.ndarray, " b"]:
        """Return the positions in a batch that this process loads."""
        size = sharding.whole_size(self.batch_size, self.mesh)
        return sharding.fill(np.arange(self.batch_size), size, self.mesh)

    def epoch(
        self, epoch: int
    ) -> tuple[Int[np.ndarray, "steps b"], Int[np.ndarray, "steps b"]]:
        """Return the batches of an epoch, over all devices.

        Returns:
          The positions in `indices` of the examples of each step, and the numbers of
          the examples.
        """
        order, repeats = self._order(epoch)
        shape = self.steps_per_epoch, self.batch_size
        rows, repeats = (
            values[: self.steps_per_epoch * self.batch_size].reshape(shape)
            for values in (order, repeats)
        )
        # A repeated image gets another index, and so other random numbers.
        return rows, self.indices[rows] + repeats * len(self.labels)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of an epoch, and the earlier occurrences of each row."""
        count = len(self.indices)
        if self.balance == NONE:
            return epoch_order(self.seed, epoch, count), np.zeros(count, np.int64)
        return balanced_order(self.seed, epoch, self.labels[self.indices])


@dataclasses.dataclass(frozen=True)
class InTurns:
    """The batches of several loaders of the same examples, which alternate by epoch.

    Attributes:
      loaders: the loader of the first epoch, of the second, and so on.
    """

    loaders: tuple[TrainLoader, ...]

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full batches of an epoch."""
        return self.loaders[0].steps_per_epoch

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of the steps from `start` to `stop` - 1."""
        while start < stop:
            epoch = start // self.steps_per_epoch
            end = min((epoch + 1) * self.steps_per_epoch, stop)
            yield from self.loaders[epoch % len(self.loaders)](start, end)
            start = end


def eval_batches(
    reader: Reader, indices: Int[np.ndarray, " m"], batch_size: int, mesh: Mesh
) -> Iterator[Batch]:
    """Yield batches of all examples in order; copies of examples pad the last batch.

    The caller must cut the results to `len(indices)` rows. `batch_size` must be a
    multiple of the devices.
    """

    def make(first: int) -> Batch:
        chosen = indices[first : first + batch_size]
        return sharding.shard_batch(
            reader(sharding.fill(chosen, batch_size, mesh)), mesh
        )

    return _prefetch(make, ((first,) for first in range(0, len(indices), batch_size)))


@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """The images of a batch, as they were read from files.

    Attributes:
      positions: positions of the readable images.
      pixels: pixels of each readable image, uint8 [h, w, 3].
      errors: error of each unreadable image, by position.
      sizes: (width, height) of each readable image before it was resized, if the sizes
        were read.
    """

    positions: list[int]
    pixels: list[UInt8[np.ndarray, "h w 3"]]
    errors: Mapping[int, UnreadableImage]
    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)


def read_batches(
    images: Images,
    batch_size: int,
    parts: Iterable[range] | None = None,
    with_sizes: bool = False,
) -> Generator[ImageBatch, None, None]:
    """Yield batches of images in order, read by several threads, two batches ahead.

    Args:
      images: the images to read.
      batch_size: number of images in a batch, readable or not.
      parts: positions of the images to read; all by default. A batch has images of one
        part only.
      with_sizes: whether to read the original sizes as well.
    """
    chosen = (
        part[first : first + batch_size]
        for part in ([range(len(images))] if parts is None else parts)
        for first in range(0, len(part), batch_size)
    )

    def attempt(position: int) -> _Read:
        try:
            if with_sizes:
                return images.read_with_size(position)
            return images.read(position), None
        except UnreadableImage as error:
            return error

    readers = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="reader")
    batches = ({i: readers.submit(attempt, i) for i in batch} for batch in chosen)
    try:
        yield from map(_gather, ahead(batches, _BATCHES_AHEAD))
    finally:
        readers.shutdown(cancel_futures=True)


def _gather(futures: Mapping[int, concurrent.futures.Future[_Read]]) -> ImageBatch:
    """Wait for the images of a batch, and return the batch."""
    results = {position: future.result() for position, future in futures.items()}
    errors = {i: r for i, r in results.items() if isinstance(r, UnreadableImage)}
    read = {i: r for i, r in results.items() if not isinstance(r, UnreadableImage)}
    return ImageBatch(
        list(read),
        [pixels for pixels, _ in read.values()],
        errors,
        [size for _, size in read.values() if size is not None],
    )


def _prefetch(
    make: Callable[..., Made],
    arguments: Iterable[tuple[Any, ...]],
    threads: int = THREADS,
) -> Iterator[Made]:
    """Yield make(*values) for all arguments in order; threads make the next results."""
    workers = concurrent.futures.ThreadPoolExecutor(threads, "loader")
    try:
        futures = (workers.submit(make, *values) for values in arguments)
        for future in ahead(futures, threads):
            yield future.result()
    finally:
        workers.shutdown(cancel_futures=True)


def ahead(items: Iterable[Made], count: int) -> Iterator[Made]:
    """Yield items in order, each after the next `count` items were taken.

    Taking an item starts its work, which continues in the background.

    Example:
      >>> list(ahead(range(3), 1))
      [0, 1, 2]
    """
    taken: collections.deque[Made] = collections.deque()
    for item in items:
        taken.append(item)
        if len(taken) > count:
            yield taken.popleft()
    while taken:
        yield taken.popleft()
