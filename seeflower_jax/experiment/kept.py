"""Keep logits and features in a run directory, with what they were computed from.

    logits = kept.read_logits(path, origin, count)    # None if they must be computed
    logits = kept.logits(path, origin, count, compute)

Arrays of another origin and damaged files are computed again. The log names each
damaged file.
"""

import collections
import logging
import pathlib
import time
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float

from seeflower_jax import records
from seeflower_jax.sharding import processes

_CHUNK = 1 << 12  # number of rows that a checksum reads at a time
_SECONDS = 30.0  # between two writes of the logits so far


def logits(
    path: pathlib.Path,
    origin: str,
    count: int,
    compute: Callable[[int], Iterable[Float[np.ndarray, "b c"]]],
) -> Float[np.ndarray, "n c"]:
    """Compute the logits of `count` images, and write them.

    An interrupted call leaves a file of the logits so far. The next call continues
    with the image after these. All processes compute, and the first one writes.

    Args:
      path: the file of the logits.
      origin: what the logits are computed from.
      count: number of images.
      compute: returns the logits from an image on, in batches.

    Raises:
      FullDiskError: if the disk is full.
    """
    so_far = path.with_name(f"{path.stem}_so_far{path.suffix}")
    before = processes.on_main(lambda: read_logits(so_far, origin))
    batches = [] if before is None else [before]
    first = sum(map(len, batches))
    written = time.monotonic()
    for rows in compute(first) if first < count else ():
        batches.append(rows)
        if processes.is_main() and time.monotonic() - written >= _SECONDS:
            write_logits(so_far, origin, np.concatenate(batches))
            written = time.monotonic()
    computed = np.concatenate(batches)
    if processes.is_main():
        write_logits(path, origin, computed)
        so_far.unlink(missing_ok=True)
    return computed


def read_logits(
    path: pathlib.Path, origin: str, count: int | None = None
) -> Float[np.ndarray, "n c"] | None:
    """Return the logits in a file; None if it does not have them.

    Args:
      path: the file.
      origin: what the logits must have been computed from.
      count: number of images that it must have; None allows any number.
    """
    if not path.exists():
        return None
    try:
        with np.load(path) as file:  # The zip format has checksums.
            logits, computed_from = file["logits"], str(file["of"])
        if computed_from != origin:
            return None
        if logits.ndim != 2 or count not in (None, len(logits)):
            raise ValueError(f"it has the shape {logits.shape} for {count} images")
        return logits
    except Exception as error:  # NumPy and zipfile raise errors of many types.
        _warn(path, error)
        return None


def write_logits(
    path: pathlib.Path, origin: str, logits: Float[np.ndarray, "n c"]
) -> None:
    """Write logits and their origin.

    Raises:
      FullDiskError: if the disk is full.
    """
    with records.replacing(path) as partial:
        np.savez(partial, logits=logits, of=origin)


def read_features(
    path: pathlib.Path, origin: str, count: int
) -> Float[np.ndarray, "n c"] | None:
    """Return features of `count` images, memory-mapped; None if the file lacks them."""
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode="r")
        # A second array follows the features in the file.
        with open(path, "rb") as file:
            file.seek(features.offset + features.nbytes)
            computed_from, checksum = np.load(file)
        if computed_from != origin:
            return None
        if len(features) != count or int(checksum) != _checksum(features):
            raise ValueError("its content has changed")
        return features
    except Exception as error:  # NumPy raises errors of many types.
        _warn(path, error)
        return None


def features(
    path: pathlib.Path,
    origin: str,
    count: int,
    compute: Callable[[], Iterable[Float[np.ndarray, "b c"]]],
) -> Float[np.ndarray, "n c"]:
    """Return features of `count` images, memory-mapped; compute them if necessary.

    All processes compute them, and the first one writes the file.

    Args:
      path: the file of the features, which is written if necessary.
      origin: what the features are computed from.
      count: number of images.
      compute: returns the features in batches.

    Raises:
      FullDiskError: if the disk is full.
    """
    kept = read_features(path, origin, count) if processes.is_main() else None
    if not processes.agree(kept is not None):
        if processes.is_main():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_features(path, origin, compute(), count)
        else:
            collections.deque(compute(), maxlen=0)
        processes.barrier("features")
    if kept is None:
        kept = read_features(path, origin, count)
    if kept is None:
        raise OSError(f"{path} does not have the content that was written to it")
    return kept


def write_features(
    path: pathlib.Path,
    origin: str,
    batches: Iterable[Float[np.ndarray, "b c"]],
    count: int,
) -> None:
    """Write the features of `count` images, batch by batch, and their origin.

    Raises:
      FullDiskError: if the disk is full. Writing through a memory map would end the
        process instead.
    """
    checksum = 0
    with records.replacing(path) as partial, open(partial, "wb") as file:
        for rows in batches:
            if not file.tell():
                header = np.lib.format.header_data_from_array_1_0(rows)
                header |= {"fortran_order": False, "shape": (count, rows.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            content = np.ascontiguousarray(rows).tobytes()
            checksum = zlib.crc32(content, checksum)
            file.write(content)
        np.save(file, np.array([origin, str(checksum)]))


def _checksum(features: np.ndarray) -> int:
    checksum = 0
    for first in range(0, len(features), _CHUNK):
        rows = np.ascontiguousarray(features[first : first + _CHUNK])
        checksum = zlib.crc32(rows.data, checksum)
    return checksum


def _warn(path: pathlib.Path, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    logging.warning("%s is damaged (%s) and is computed again", path, reason)
