"""List and remove what a cache directory has of decoded images and compiled functions.

for entry in entries(cache_dir):
    print(entry.name, entry.size, entry.used)
remove(entries(cache_dir, unused_days=30))
"""

import dataclasses
import datetime
import os
import pathlib
import shutil
import time
from collections.abc import Iterable

from seeflower_jax.data import cache, decoding
from seeflower_jax.sharding import compilation


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or folder of a cache directory.

    Attributes:
      path: the file or folder.
      kind: 'pixels', 'unfinished pixels' or 'compiled functions'.
      size: bytes on disk. Caches of the same images in other folders share a file; its
        size counts for the first of them.
      used: when it was last read or written, in seconds since 1970. Most systems note
        at most one reading a day.
    """

    path: pathlib.Path
    kind: str
    size: int
    used: float

    @property
    def name(self) -> str:
        """Return the path in the cache directory."""
        return f"{self.path.parent.name}/{self.path.name}"

    def to_dict(self) -> dict:
        """Return a JSON-serialisable form."""
        used = datetime.datetime.fromtimestamp(self.used).isoformat(" ", "seconds")
        path = str(self.path)
        return {"path": path, "kind": self.kind, "bytes": self.size, "used": used}


def entries(
    cache_dir: str | os.PathLike | None = None, unused_days: float = 0.0
) -> list[Entry]:
    """Return what a cache directory has, the largest first.

    Args:
      cache_dir: the cache directory; ~/.cache/seeflower_jax by default.
      unused_days: leaves out what was used in this number of days.
    """
    pixels = cache.pixel_folder(cache_dir)
    compiled = pixels.parent / compilation.FOLDER
    kinds = {path: "pixels" for path in sorted(pixels.glob("*.npy"))}
    kinds |= dict.fromkeys(decoding.unfinished(pixels), "unfinished pixels")
    kinds |= dict.fromkeys(sorted(compiled.glob("*")), "compiled functions")
    inodes: set[tuple[int, int]] = set()
    listed = [_entry(path, kind, inodes) for path, kind in kinds.items()]
    latest = time.time() - unused_days * 24 * 3600
    listed = [entry for entry in listed if entry.used <= latest]
    return sorted(listed, key=lambda entry: -entry.size)


def _entry(path: pathlib.Path, kind: str, inodes: set[tuple[int, int]]) -> Entry:
    """Return the entry of a path; add the files that it has to those seen before."""
    size, used = 0, 0.0
    for file in [path, *path.rglob("*")]:
        stat = file.stat()
        used = max(used, stat.st_mtime, stat.st_atime if file.is_file() else 0.0)
        if file.is_file() and (stat.st_dev, stat.st_ino) not in inodes:
            inodes.add((stat.st_dev, stat.st_ino))
            size += stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
    return Entry(path, kind, size, used)


def remove(chosen: Iterable[Entry]) -> list[Entry]:
    """Remove entries, and return them without those that a process is writing.

    A process that reads a removed file goes on reading it. The space is free when all
    of them have ended.
    """
    removed = []
    for entry in chosen:
        if entry.kind == "unfinished pixels" and not decoding.is_free(entry.path):
            continue
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
        removed.append(entry)
    return removed
