"""Keep logits and features in a run directory, with what they were computed from.

    rows = kept.logits(path, origin, count, compute)
    rows = kept.features(path, origin, count, compute)    # memory-mapped

Arrays of another origin and damaged files are computed again. The log names each
damaged file. An interrupted computation leaves a folder `<name>_so_far` with the rows
so far, and the next call continues with the row after these. If the run directory is
read-only, the arrays are computed and not kept.
"""

import collections
import contextlib
import errno
import io
import itertools
import logging
import pathlib
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float

from seeflower_jax import records
from seeflower_jax.sharding import processes

_CHUNK = 1 << 12  # number of rows that a checksum reads at a time
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_SECONDS = 30.0  # time whose rows an interruption can lose

Rows = Float[np.ndarray, "b c"]
Compute = Callable[[int], Iterable[Rows]]  # from the number of the first row


def logits(
    path: pathlib.Path, origin: str, count: int, compute: Compute
) -> Float[np.ndarray, "n c"]:
    """Return the logits of `count` images; compute them if necessary.

    All processes compute them, and the first one writes the file.

    Args:
      path: the file of the logits, which is written if necessary.
      origin: what the logits are computed from. The origin of the first process counts,
        because rounding may differ among processes.
      count: number of images.
      compute: returns the logits from a row on, in batches.

    Raises:
      FolderInUseError: if another process is writing to the folder of the file.
      FullDiskError: if the disk is full.
    """
    return _computed(path, origin, count, compute, read_rows, write_logits)


def features(
    path: pathlib.Path, origin: str, count: int, compute: Compute
) -> Float[np.ndarray, "n c"]:
    """Return features of `count` images, memory-mapped; compute them if necessary.

    The arguments and errors are those of `logits`.
    """
    return _computed(path, origin, count, compute, read_features, write_features)


def _computed(
    path: pathlib.Path,
    origin: str,
    count: int,
    compute: Compute,
    read: Callable[[pathlib.Path, str, int], Float[np.ndarray, "n c"] | None],
    write: Callable[[pathlib.Path, str, Iterable[Rows], int], None],
) -> Float[np.ndarray, "n c"]:
    """Return the content of a file, which is computed and written if necessary.

    Args:
      path, origin, count, compute: the arguments of `logits`.
      read: function of (path, origin, count) that returns the content of the file; None
        if it must be computed.
      write: function of (path, origin, batches, count) that writes the file.
    """
    origin = processes.agree(origin)
    content = read(path, origin, count) if processes.is_main() else None
    if not processes.agree(content is not None):
        with _locked(path) as is_writable:
            if not is_writable:
                return np.concatenate(list(compute(0)))
            folder = path.with_name(f"{path.stem}_so_far")
            sizes = processes.on_main(lambda: _chunk_sizes(folder, origin))
            batches = compute(sum(sizes)) if sum(sizes) < count else ()
            if processes.is_main():
                after = _writing_chunks(batches, folder, origin, len(sizes))
                rows = itertools.chain(_chunks(folder, origin), after)
                write(path, origin, rows, count)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                collections.deque(batches, maxlen=0)
        processes.barrier(path.stem)
    if content is None:
        content = read(path, origin, count)
    if content is None:
        raise OSError(f"{path} does not have the content that was written to it")
    return content


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[bool]:
    """Lock the folder of a file; yield False, with a warning, if it is read-only."""
    with contextlib.ExitStack() as stack:
        is_writable = True
        try:
            stack.enter_context(records.lock(path.parent))
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            is_writable = False
            reason = "%s is not kept, because its folder cannot be written to: %s"
            logging.warning(reason, path, error.strerror)
        yield processes.agree(is_writable)


def _chunk(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"{number:05}.npz"


def _chunks(folder: pathlib.Path, origin: str) -> Iterator[Rows]:
    """Yield the chunks in a folder, up to the first that is missing or damaged."""
    for number in itertools.count():
        rows = read_rows(_chunk(folder, number), origin)
        if rows is None:
            return
        yield rows


def _chunk_sizes(folder: pathlib.Path, origin: str) -> list[int]:
    """Return the numbers of rows of the `_chunks` of a folder; remove other files."""
    sizes = list(map(len, _chunks(folder, origin)))
    for path in set(folder.glob("*")) - {_chunk(folder, i) for i in range(len(sizes))}:
        path.unlink()
    return sizes


def _writing_chunks(
    batches: Iterable[Rows], folder: pathlib.Path, origin: str, number: int
) -> Iterator[Rows]:
    """Yield batches, and write them as chunks from a number on."""
    held: list[Rows] = []
    written = time.monotonic()
    for rows in batches:
        yield rows
        held.append(rows)
        if time.monotonic() - written >= _SECONDS:
            folder.mkdir(exist_ok=True)
            write_rows(_chunk(folder, number), origin, np.concatenate(held))
            held, number, written = [], number + 1, time.monotonic()


def read_rows(
    path: pathlib.Path, origin: str, count: int | None = None
) -> Float[np.ndarray, "n c"] | None:
    """Return the rows in a .npz file; None if it does not have them.

    Args:
      path: the file.
      origin: what the rows must have been computed from.
      count: number of rows that the file must have; None allows any number.
    """
    if not path.exists():
        return None
    try:
        with np.load(path) as file:  # The zip format has checksums.
            rows, computed_from = file["logits"], str(file["of"])
        if computed_from != origin:
            return None
        if rows.ndim != 2 or count not in (None, len(rows)):
            raise ValueError(f"it has the shape {rows.shape} for {count} images")
        return rows
    except Exception as error:  # NumPy and zipfile raise errors of many types.
        _warn(path, error)
        return None


def write_rows(path: pathlib.Path, origin: str, rows: Float[np.ndarray, "n c"]) -> None:
    """Write rows and their origin in the format .npz.

    Raises:
      FullDiskError: if the disk is full.
    """
    with records.replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, logits=rows, of=origin)  # NumPy would add an ending to a path.


def write_logits(
    path: pathlib.Path, origin: str, batches: Iterable[Rows], count: int
) -> None:
    """Write the logits of `count` images and their origin.

    Raises:
      FullDiskError: if the disk is full.
    """
    write_rows(path, origin, np.concatenate(list(batches)))


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
        # `np.save` to a file would not notice that the disk has no space for the end.
        end = io.BytesIO()
        np.save(end, np.array([origin, str(checksum)]))
        file.write(end.getvalue())


def _checksum(features: np.ndarray) -> int:
    checksum = 0
    for first in range(0, len(features), _CHUNK):
        rows = np.ascontiguousarray(features[first : first + _CHUNK])
        checksum = zlib.crc32(rows.data, checksum)
    return checksum


def _warn(path: pathlib.Path, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    logging.warning("%s is damaged (%s) and is computed again", path, reason)
