"""Decode the images of a source into a pixel cache, and resume after interruptions.

    with reserved(path) as folder:
        write(source, 320, folder, path)

`PixelCache` of `data.cache` reads the file. The file is a .npy of all pixels, a .npy of
all sizes, a checksum of the sizes, and the digest of the encoded images. Until the file
is complete, it is in a hidden folder next to its final path, with a journal of the
decoded images. If a process is killed or its disk fails, the next process continues in
its folder.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, UInt8

from seeflower_jax import records
from seeflower_jax.data import decode
from seeflower_jax.data.source import ImageSource
from seeflower_jax.records import files
from seeflower_jax.records.progress_bar import progress_bar

DIGEST_SIZE = 16
_ENTRY = np.dtype([("size", np.int32, 2), ("digest", np.uint8, DIGEST_SIZE)])
_CHUNK = 256  # images to decode before each entry of the journal
_SUFFIX, _PIXELS, _JOURNAL, _LOCK = ".decoding", "pixels", "journal", "lock"
_MAX_LISTED = 10
# The pixels and the digest of an image, or the reason why it cannot be read.
_Loaded = tuple[UInt8[np.ndarray, "h w 3"], bytes] | str


def checksum(sizes: Int[np.ndarray, "n 2"]) -> bytes:
    """Return a checksum of sizes, 4 bytes."""
    return zlib.crc32(sizes.tobytes()).to_bytes(4, "little")


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_SIZE).digest()


def content_digest(source: ImageSource) -> bytes:
    """Return a digest of all encoded images in their order, without names and times."""
    with concurrent.futures.ThreadPoolExecutor(records.cores()) as pool:
        indices = range(len(source.keys))
        return _digest(b"".join(pool.map(lambda i: _digest(source.read(i)), indices)))


def unfinished(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of caches that are not complete."""
    return sorted(folder.glob(f".*{_SUFFIX}"))


@contextlib.contextmanager
def reserved(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the folder in which `path` is written, to one process at a time.

    The folder is removed after a success. It is also removed after a ValueError: images
    that cannot be decoded must be replaced, and `path` then has another name. After an
    interruption or an error of the disk, the next process continues in the folder.
    If another user has created the folder, the process gets a folder of its own.
    """
    folder = path.with_name(f".{path.name}{_SUFFIX}")
    lock = _open_lock(folder)
    if lock is None:
        prefix = f".{path.name}-"
        with tempfile.TemporaryDirectory(_SUFFIX, prefix, path.parent) as private:
            with files.open_locked(pathlib.Path(private, _LOCK)):
                yield pathlib.Path(private)
        return
    with lock:
        try:
            with try_lock(folder) as has_no_locks:
                if has_no_locks:  # The disk has none, so others may be in the folder.
                    with tempfile.TemporaryDirectory(dir=folder) as private:
                        yield pathlib.Path(private)
                else:
                    yield folder
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _open_lock(folder: pathlib.Path) -> BinaryIO | None:
    """Lock a folder of `reserved`; return None if its files are of another user."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # Another has just removed it.
            try:
                return files.open_locked(folder / _LOCK)
            except PermissionError:
                return None


@contextlib.contextmanager
def try_lock(folder: pathlib.Path) -> Iterator[bool]:
    """Try to hold the lock of a folder of `reserved`; yield whether it was free.

    The lock of a missing folder, and of a folder on a disk without locks, is free.
    """
    try:
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # Locking a file of another user needs no more.
            descriptor = os.open(folder / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            is_free = files.lock_descriptor(descriptor, wait=False)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # Network disks lock no file that is open for reading alone.
            is_free = False
        yield is_free
    finally:
        os.close(descriptor)


def write(
    source: ImageSource, shortest_side: int, folder: pathlib.Path, path: pathlib.Path
) -> None:
    """Decode the images that a folder of `reserved` lacks, and write `path`.

    Raises:
      ValueError: if images cannot be decoded; the message lists them.
      UnavailableImage: if the disk of an image fails.
    """

    def load(index: int) -> _Loaded:
        digests = []

        def read() -> bytes:
            encoded = source.read(index)
            digests.append(_digest(encoded))
            return encoded

        try:
            pixels = decode.load_pixels(read, shortest_side, source.keys[index])
        except decode.UnreadableImage as error:
            return str(error)
        return pixels, digests[0]

    with (
        open(folder / _PIXELS, "ab") as _,  # creates it
        open(folder / _PIXELS, "rb+") as pixels,
        open(folder / _JOURNAL, "ab+") as journal,
    ):
        done = _go_on(pixels, journal)
        entries = np.zeros(len(source.keys), _ENTRY)
        entries[: len(done)] = done
        broken = _decode(load, entries, len(done), (pixels, journal))
        if broken:
            raise ValueError(_describe(source, broken))
        _complete(pixels, entries)
    os.replace(folder / _PIXELS, path)


def _go_on(pixels: BinaryIO, journal: BinaryIO) -> np.ndarray:
    """Truncate both files to the images that both have; return their entries."""
    start = _write_header(pixels, 0)
    journal.seek(0)
    content = journal.read()
    whole = len(content) // _ENTRY.itemsize * _ENTRY.itemsize
    entries = np.frombuffer(content[:whole], _ENTRY)
    # After a power failure, the end of a file may be zeros.
    written = (entries["size"] > 0).all(axis=1)
    entries = entries[np.logical_and.accumulate(written)]
    ends = start + 3 * entries["size"].astype(np.int64).prod(axis=1).cumsum()
    count = int(np.searchsorted(ends, pixels.seek(0, os.SEEK_END), side="right"))
    pixels.truncate(int(ends[count - 1]) if count else start)
    pixels.seek(0, os.SEEK_END)
    journal.truncate(count * _ENTRY.itemsize)
    return entries[:count]


def _decode(
    load: Callable[[int], _Loaded],
    entries: np.ndarray,
    first: int,
    files: tuple[BinaryIO, BinaryIO],
) -> list[str]:
    """Decode the images from `first` on; return the errors of unreadable images."""
    (pixels, journal), count, broken = files, len(entries), []
    with (
        concurrent.futures.ThreadPoolExecutor(records.cores()) as pool,
        progress_bar("decoding", count, "image", first) as bar,
    ):
        for start in range(first, count, _CHUNK):  # bounds the memory for images
            chunk = range(start, min(start + _CHUNK, count))
            for index, loaded in zip(chunk, pool.map(load, chunk), strict=True):
                if isinstance(loaded, str):
                    broken.append(loaded)
                elif not broken:
                    image, digest = loaded
                    entries[index]["size"] = image.shape[:2]
                    entries[index]["digest"] = np.frombuffer(digest, np.uint8)
                    pixels.write(image.tobytes())
                bar.update()
            if not broken:
                pixels.flush()
                os.fsync(pixels.fileno())  # before the journal lists them
                journal.write(entries[chunk.start : chunk.stop].tobytes())
                journal.flush()
    return broken


def _describe(source: ImageSource, broken: list[str]) -> str:
    """Return the message of an error that lists unreadable images."""
    listed = "\n  ".join(broken[:_MAX_LISTED])
    more = len(broken) - _MAX_LISTED
    return (
        f"{len(broken)} of {len(source.keys)} images of {source.folder or source.name} "
        f"cannot be read:\n  {listed}"
        + (f"\n  and {more} more" if more > 0 else "")
        + "\nReplace these files by intact copies, or remove them"
    )


def _complete(pixels: BinaryIO, entries: np.ndarray) -> None:
    """Write the data after the pixels, and the header with the number of pixels."""
    sizes = np.ascontiguousarray(entries["size"])
    np.save(pixels, sizes)
    pixels.write(checksum(sizes))
    pixels.write(_digest(entries["digest"].tobytes()))
    _write_header(pixels, 3 * int(sizes.astype(np.int64).prod(axis=1).sum()))
    pixels.flush()
    os.fsync(pixels.fileno())


def _write_header(file: BinaryIO, count: int) -> int:
    """Write the header of a .npy of `count` bytes; return the offset of the bytes."""
    file.seek(0)
    # NumPy pads this header, so every count fits.
    header = {"descr": "|u1", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()
