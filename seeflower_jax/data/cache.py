"""Keep the decoded pixels of a source in one memory-mapped file.

    cache = open_cache(source, shortest_side=320)
    image = cache[7]        # uint8 [h, w, 3], min(h, w) == 320

Each image is decoded and resized only once, even if decoding is interrupted or a folder
of images is copied or touched. The file gets its name when it is complete. The name has
the version of the decoder. If several runs start at once, one of them decodes.
"""

import logging
import os
import pathlib
import shutil
import tempfile

import numpy as np
from jaxtyping import UInt8

from seeflower_jax.data import decode, decoding
from seeflower_jax.data.source import ImageSource

_DEFAULT_DIR = "~/.cache/seeflower_jax"


class DamagedCacheError(ValueError):
    """A file does not have the pixels of a source; the message names the file."""


class PixelCache:
    """The decoded images of a source, by index; their sizes differ.

    Attributes:
      sizes: int32 [N, 2], height and width of each image.
      digest: digest of the encoded images.

    Raises:
      DamagedCacheError: if the file is not a pixel cache, or is incomplete.
      OSError: if the file cannot be opened or read.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            mapped = np.load(path, mmap_mode="r")
            self._pixels = mapped.view(np.ndarray)  # faster to slice than a memmap
            with open(path, "rb") as file:
                file.seek(mapped.offset + mapped.nbytes)
                self.sizes = np.load(file)
                rest = file.read(4 + decoding.DIGEST_SIZE + 1)
        except (PermissionError, FileNotFoundError):
            raise
        except Exception as error:  # NumPy raises many types for damaged files.
            if isinstance(error, OSError) and error.errno:  # The file may be intact.
                raise OSError(f"{path} cannot be opened: {error.strerror}") from error
            reason = " ".join(str(error).split())
            raise DamagedCacheError(f"{path} is not a pixel cache: {reason}") from error
        shape, kinds = self.sizes.shape, (self._pixels.dtype, self.sizes.dtype)
        valid = kinds == (np.uint8, np.int32) and shape[1:] == (2,)
        self.digest = rest[4:]
        complete = len(self.digest) == decoding.DIGEST_SIZE
        if not (valid and complete and rest[:4] == decoding.checksum(self.sizes)):
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

    If a cache file is damaged, the log names it, and the images are decoded again.

    Args:
      source: the encoded images.
      shortest_side: shortest side of the decoded images in pixels; the aspect ratio is
        kept.
      cache_dir: folder that contains `pixels/`; ~/.cache/seeflower_jax by default.

    Raises:
      ValueError: if images cannot be decoded; the message lists them.
      UnavailableImage: if the disk of an image fails.
      OSError: if the cache file cannot be read or written; the message names it.
    """
    name = f"{source.name}_{source.fingerprint}{_ending(shortest_side)}"
    path = pixel_folder(cache_dir) / name
    if path.exists():
        try:
            return _open_checked(path, source, shortest_side)
        except DamagedCacheError as error:
            logging.warning("%s; decoding the images again", error)
    try:
        with decoding.reserved(path) as folder:
            try:  # Another process may have written it in the meantime.
                return _open_checked(path, source, shortest_side)
            except (FileNotFoundError, DamagedCacheError):
                if not _reuse(path, source, shortest_side, folder):
                    decoding.write(source, shortest_side, folder, path)
    except decode.UnavailableImage:
        raise
    except OSError as error:
        raise OSError(
            f"the pixel cache {path} cannot be written: {error.strerror or error}; "
            "make room or give another folder with --config.data.cache_dir=DIR"
        ) from error
    return _open_checked(path, source, shortest_side)


def pixel_folder(cache_dir: str | os.PathLike | None) -> pathlib.Path:
    """Return the folder of pixel caches in a cache directory, or in the default one."""
    return pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser() / "pixels"


def _ending(shortest_side: int) -> str:
    """Return the end of the names of all caches whose pixels follow the same rules."""
    return f"_{shortest_side}_v{decode.RULES_VERSION}.npy"


def _reuse(
    path: pathlib.Path, source: ImageSource, shortest_side: int, folder: pathlib.Path
) -> bool:
    """Link `path` to an existing cache of the same images from other files, if any.

    The link or the copy gets its name when it is complete. Until then, it is in
    `folder`, a folder of `decoding.reserved`.
    """
    candidates = {}
    caches = path.parent.glob(f"*{_ending(shortest_side)}")
    for other in caches if source.folder else ():
        try:
            opened = PixelCache(other)
        except (OSError, DamagedCacheError):
            continue
        if len(opened) == len(source.keys) and other != path:
            candidates[opened.digest] = other
    if not candidates:
        return False
    try:
        other = candidates.get(decoding.content_digest(source))
    except Exception:  # `decoding.write` lists the files that cannot be read.
        return False
    if other is None:
        return False
    logging.info("%s has the pixels of the same images", other)
    with tempfile.TemporaryDirectory(dir=folder) as private:
        partial = pathlib.Path(private, "reused")
        try:
            os.link(other, partial)
        except OSError:  # The disk has no hard links.
            shutil.copyfile(other, partial)
        os.replace(partial, path)
    return True


def _open_checked(
    path: pathlib.Path, source: ImageSource, shortest_side: int
) -> PixelCache:
    """Open a cache file and compare it with its source.

    Raises:
      FileNotFoundError: if there is no file.
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
