"""List and remove the decoded images and compiled functions of a cache directory.

for entry in entries(cache_dir):
    print(entry.name, entry.size, entry.used)
remove(entries(cache_dir, unused_days=30))
"""

import contextlib
import dataclasses
import datetime
import logging
import os
import pathlib
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
      size: bytes on disk. Caches of the same images in several folders share a file.
        Its size counts only for the first of them.
      used: time of the last read or write, in seconds since 1970. Most systems record
        at most one read per day.
    """

    path: pathlib.Path
    kind: str
    size: int
    used: float

    @property
    def name(self) -> str:
        """Return the path relative to the cache directory."""
        return f"{self.path.parent.name}/{self.path.name}"

    def to_dict(self) -> dict:
        """Return a JSON-serialisable form."""
        used = datetime.datetime.fromtimestamp(self.used).isoformat(" ", "seconds")
        path = str(self.path)
        return {"path": path, "kind": self.kind, "bytes": self.size, "used": used}


def entries(
    cache_dir: str | os.PathLike | None = None, unused_days: float = 0.0
) -> list[Entry]:
    """Return the entries of a cache directory, the largest first.

    Args:
      cache_dir: the cache directory; ~/.cache/seeflower_jax by default.
      unused_days: return only entries that were not used for this number of days.
    """
    pixels = cache.pixel_folder(cache_dir)
    compiled = pixels.parent / compilation.FOLDER
    kinds = {path: "pixels" for path in sorted(pixels.glob("*.npy"))}
    kinds |= dict.fromkeys(decoding.unfinished(pixels), "unfinished pixels")
    kinds |= dict.fromkeys(sorted(compiled.glob("*")), "compiled functions")
    inodes: set[tuple[int, int]] = set()
    listed = [_entry(path, kind, inodes) for path, kind in kinds.items()]
    # Another process may have removed some in the meantime.
    listed = [entry for entry in listed if os.path.lexists(entry.path)]
    latest = time.time() - unused_days * 24 * 3600
    listed = [entry for entry in listed if entry.used <= latest]
    return sorted(listed, key=lambda entry: -entry.size)


def _entry(path: pathlib.Path, kind: str, inodes: set[tuple[int, int]]) -> Entry:
    """Return the entry of a path, and add its new files to `inodes`."""
    size, used = 0, 0.0
    walk = os.walk(path)  # It leaves out what is removed meanwhile; `rglob` fails.
    inside = [pathlib.Path(top, name) for top, _, names in walk for name in names]
    for file in [path, *inside]:
        try:
            stat, is_file = file.stat(), file.is_file()
        except FileNotFoundError:  # Another process has just removed the file.
            continue
        used = max(used, stat.st_mtime, stat.st_atime if is_file else 0.0)
        if is_file and (stat.st_dev, stat.st_ino) not in inodes:
            inodes.add((stat.st_dev, stat.st_ino))
            size += stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
    return Entry(path, kind, size, used)


def remove(chosen: Iterable[Entry]) -> list[Entry]:
    """Remove entries that no process is writing, and return the removed entries.

    A process that reads a removed file can continue. The space is free when all such
    processes have ended. A warning names each entry that the user may not remove.
    """
    removed = []
    for entry in chosen:
        lock: contextlib.AbstractContextManager[bool] = contextlib.nullcontext(True)
        if entry.kind == "unfinished pixels":
            lock = decoding.try_lock(entry.path)
        try:
            with lock as is_free:
                if is_free:
                    _remove(entry.path)
                    removed.append(entry)
        except PermissionError as error:
            logging.warning("cannot remove %s: %s", entry.path, error)
    return removed


def _remove(path: pathlib.Path) -> None:
    """Remove a file or a folder. Another process may write to the folder."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            pathlib.Path(folder, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # The other process has added a file.
            os.rmdir(folder)
