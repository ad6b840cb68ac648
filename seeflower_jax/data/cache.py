"""Keep the decoded pixels of a source in one memory-mapped file.

    cache = open_cache(source, shortest_side=320)
    image = cache[7]        # uint8 [h, w, 3], min(h, w) == 320

Each image is decoded and resized only once. The file is written under a temporary name
and renamed when it is complete. Several runs may therefore start at once. An
interrupted run leaves no incomplete cache.
"""

import concurrent.futures
import logging
import os
import pathlib
import zlib

import numpy as np
import tqdm
from jaxtyping import Int, UInt8

from seeflower_jax.data import decode
from seeflower_jax.data.source import ImageSource
from seeflower_jax.records import files

_DEFAULT_DIR = "~/.cache/seeflower_jax"
_MAX_LISTED = 10


class DamagedCacheError(ValueError):
    """A file does not hold the pixels of a source; the message names the file."""


def _checksum(sizes: Int[np.ndarray, "n 2"]) -> bytes:
    return zlib.crc32(sizes.tobytes()).to_bytes(4, "little")


class PixelCache:
    """The decoded images of a source, by index; their sizes differ.

    Attributes:
      sizes: int32 [N, 2], height and width of each image.

    Raises:
      DamagedCacheError: if the file is not a pixel cache, or is incomplete.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            mapped = np.load(path, mmap_mode="r")
            self._pixels = mapped.view(np.ndarray)  # faster to slice than a memmap
            # The file is a .npy of all pixels, a .npy of all sizes, and its checksum.
            with open(path, "rb") as file:
                file.seek(mapped.offset + mapped.nbytes)
                self.sizes = np.load(file)
                rest = file.read(5)
        except PermissionError:
            raise
        except Exception as error:  # NumPy raises many types for damaged files.
            reason = " ".join(str(error).split())
            raise DamagedCacheError(f"{path} is not a pixel cache: {reason}") from error
        shape, kinds = self.sizes.shape, (self._pixels.dtype, self.sizes.dtype)
        valid = kinds == (np.uint8, np.int32) and shape[1:] == (2,)
        if not valid or rest != _checksum(self.sizes):
            raise DamagedCacheError(f"{path} is not a pixel cache")
        ends = np.cumsum(self.sizes.astype(np.int64).prod(axis=1) * 3)
        self._starts = np.concatenate([[0], ends])
        if self._pixels.shape != (self._starts[-1],) or (self.sizes < 1).any():
            raise DamagedCacheError(
                f"{path} has {self._pixels.size} values, but its images have "
                f"{self._starts[-1]}"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        flat = self._pixels[self._starts[index] : self._starts[index + 1]]
        return flat.reshape(*self.sizes[index], 3)


def open_cache(
    source: ImageSource,
    shortest_side: int,
    cache_dir: str | os.PathLike | None = None,
) -> PixelCache:
    """Return the pixel cache of a source; decode the images if no cache file exists.

    A damaged cache file is named in the log, and the images are decoded again.

    Args:
      source: the encoded images.
      shortest_side: shortest side of the decoded images in pixels; the aspect ratio is
        kept.
      cache_dir: folder that contains `pixels/`; ~/.cache/seeflower_jax by default.

    Raises:
      ValueError: if images cannot be decoded; the message lists them.
      OSError: if the cache file cannot be written; the message names it.
    """
    folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser() / "pixels"
    path = folder / f"{source.name}_{source.fingerprint}_{shortest_side}.npy"
    if path.exists():
        try:
            return _open_checked(path, source, shortest_side)
        except DamagedCacheError as error:
            logging.warning("%s; decoding the images again", error)
    try:
        with files.workspace(path) as folder:
            _write(source, shortest_side, folder / path.name)
            os.replace(folder / path.name, path)
    except OSError as error:
        raise OSError(
            f"the pixel cache {path} cannot be written: {error.strerror or error}; "
            "make room or give another folder with --config.data.cache_dir=DIR"
        ) from error
    return _open_checked(path, source, shortest_side)


def _open_checked(
    path: pathlib.Path, source: ImageSource, shortest_side: int
) -> PixelCache:
    """Open a cache file and compare it with its source.

    Raises:
      DamagedCacheError: if the file is damaged, or has other images.
    """
    opened = PixelCache(path)
    if len(opened) != len(source.keys):
        raise DamagedCacheError(
            f"{path} has {len(opened)} images, expected {len(source.keys)}"
        )
    if (opened.sizes.min(axis=1) != shortest_side).any():
        raise DamagedCacheError(
            f"{path} has images with another shortest side than {shortest_side} pixels"
        )
    return opened


def _write(source: ImageSource, shortest_side: int, path: pathlib.Path) -> None:
    def load(index):
        try:
            return decode.load_pixels(
                lambda: source.read(index), shortest_side, source.keys[index]
            )
        except decode.UnreadableImage as error:
            return str(error)

    count, total = len(source.keys), 0
    sizes = np.zeros((count, 2), np.int32)
    broken = []
    with (
        open(path, "wb") as file,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm.tqdm(total=count, desc="decoding", unit="image") as bar,
    ):
        header = {"descr": "|u1", "fortran_order": False}
        # NumPy pads this header, so the final shape fits in at the end.
        np.lib.format.write_array_header_1_0(file, header | {"shape": (0,)})
        start = file.tell()
        for first in range(0, count, 256):  # bounds the memory for decoded images
            chunk = range(first, min(first + 256, count))
            for index, pixels in zip(chunk, pool.map(load, chunk), strict=True):
                if isinstance(pixels, str):
                    broken.append(pixels)
                elif not broken:
                    sizes[index] = pixels.shape[:2]
                    total += pixels.size
                    file.write(pixels.tobytes())
                bar.update()
        if broken:
            listed = "\n  ".join(broken[:_MAX_LISTED])
            more = len(broken) - _MAX_LISTED
            raise ValueError(
                f"{len(broken)} of {count} images of {source.folder or source.name} "
                f"cannot be read:\n  {listed}"
                + (f"\n  and {more} more" if more > 0 else "")
                + "\nReplace these files by intact copies, or remove them"
            )
        np.save(file, sizes)
        file.write(_checksum(sizes))
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header | {"shape": (total,)})
        if file.tell() != start:
            raise RuntimeError(f"the header of {path} changed its length")
