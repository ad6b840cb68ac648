"""Order, batches and their place on the devices.

    mesh = make_mesh()
    batches = train_batches(
        reader, labels, indices, 32, mesh, seed=(0,), start=step, stop=stop
    )
    for batch in batches:
        ...  # {'canvas', 'sizes', 'labels', 'indices'}, sharded over 'data'

The batch of a step is a function of (seed, step) alone, so that a run that goes on at
step k sees what it would have seen without the interruption.
"""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicate(tree, mesh: Mesh):
    """Puts a pytree of arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def epoch_order(seed: Sequence[int], epoch: int, count: int) -> np.ndarray:
    """The order of `count` examples in an epoch: a permutation, int64 [count]."""
    return np.random.default_rng((*seed, epoch)).permutation(count)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Full batches in an epoch; an incomplete last one is left out.

    Raises:
      ValueError: if there is none.
    """
    if count < batch_size:
        raise ValueError(
            f"a batch of {batch_size} does not fit {count} training examples; "
            f"set the stage's batch_size to at most {count}"
        )
    return count // batch_size


def _local_rows(batch_size: int, mesh: Mesh) -> slice:
    """The rows of a global batch that this process loads."""
    if batch_size % mesh.size:
        raise ValueError(
            f"batch size {batch_size} is not a multiple of the {mesh.size} devices"
        )
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def place(batch: dict, mesh: Mesh) -> dict:
    """Makes global arrays, split by their first axis, of this process's rows."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


class PictureReader:
    """Reads pictures of a pixel cache as canvases of one shape.

    Args:
      cache: `sizes` [N, 2] and uint8 pictures [h, w, 3] by index.
    """

    def __init__(self, cache):
        self._cache = cache
        self._canvas = tuple(int(n) for n in cache.sizes.max(axis=0))

    def __call__(self, indices: np.ndarray) -> dict:
        canvas = np.zeros((len(indices), *self._canvas, 3), np.uint8)
        for row, index in zip(canvas, indices, strict=True):
            picture = self._cache[index]
            row[: picture.shape[0], : picture.shape[1]] = picture
        return {"canvas": canvas, "sizes": self._cache.sizes[indices]}


class FeatureReader:
    """Reads rows of an array of features, which may be a file.

    Args:
      features: [N, C].
      examples: int [N], whose features they are.
    """

    def __init__(self, features: np.ndarray, examples: np.ndarray):
        self._features = features
        self._rows = np.zeros(examples.max() + 1, np.int64)
        self._rows[examples] = np.arange(len(examples))

    def __call__(self, indices: np.ndarray) -> dict:
        return {"features": np.array(self._features[self._rows[indices]])}


def _prefetch(make: Callable[[int], dict], steps: range) -> Iterator[dict]:
    """make(step) for every step, each made while the one before is in use."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = None
        for step in steps:
            current = ahead or pool.submit(make, step)
            ahead = pool.submit(make, step + 1) if step + 1 in steps else None
            yield current.result()


def train_batches(
    reader, labels, indices, batch_size: int, mesh: Mesh, *, seed, start: int, stop: int
) -> Iterator[dict]:
    """The batches of the steps from `start` to `stop`, exclusive.

    Args:
      reader: `PictureReader` or `FeatureReader`.
      labels: int32, of all examples.
      indices: the examples to train on.
      batch_size: global.
      mesh: from `make_mesh`.
      seed: of the epochs' orders; some integers.
    """
    rows = _local_rows(batch_size, mesh)
    per_epoch = steps_per_epoch(len(indices), batch_size)

    def make(step):
        epoch, position = divmod(step, per_epoch)
        order = epoch_order(seed, epoch, len(indices))
        picked = indices[order[position * batch_size : (position + 1) * batch_size]]
        picked = picked[rows]
        batch = {"labels": labels[picked], "indices": picked.astype(np.int32)}
        return place(reader(picked) | batch, mesh)

    return _prefetch(make, range(start, stop))


def eval_batches(reader, indices, batch_size: int, mesh: Mesh) -> Iterator[dict]:
    """All examples in order; the last batch is filled up with copies of the first.

    The caller cuts what it computes from the batches to `len(indices)` rows.
    """
    rows = _local_rows(batch_size, mesh)

    def make(step):
        picked = indices[step * batch_size : (step + 1) * batch_size]
        fill = np.full(batch_size - len(picked), indices[0], picked.dtype)
        return place(reader(np.concatenate([picked, fill])[rows]), mesh)

    return _prefetch(make, range(-(-len(indices) // batch_size)))
