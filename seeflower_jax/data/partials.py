"""Write files and folders under another name, and remove what an interruption left.

    with partials.beside(path) as partial:     # path.<number>.partial, an empty file
        write(partial)
        os.replace(partial, path)

A partial that is in use is locked. The system frees the lock when its process ends, so
the next writer of the same path can tell an abandoned partial and removes it. On a disk
without locks, abandoned partials stay.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def beside(path: pathlib.Path, folder: bool = False) -> Iterator[pathlib.Path]:
    """Yield a new, empty path next to `path`, and remove it at the end.

    Args:
      path: the final path; missing folders above it are created. The caller renames the
        partial to this path when it is complete.
      folder: whether to make a folder instead of a file.

    Raises:
      OSError: if the partial cannot be created; the error has its path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial, lock = _create(path, folder)
    try:
        yield partial
    finally:
        _remove(partial)
        os.close(lock)


def _create(path: pathlib.Path, folder: bool) -> tuple[pathlib.Path, int]:
    """Create and lock a partial; return its path and the descriptor of the lock."""
    while True:
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        if folder:
            partial.mkdir()
        else:
            partial.touch(exist_ok=False)
        lock = os.open(partial, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have removed the partial before it was locked.
        if partial.exists():
            return partial, lock
        os.close(lock)


def _remove_abandoned(path: pathlib.Path) -> None:
    """Remove the partials of `path` that no process has locked."""
    for partial in path.parent.iterdir():
        if not partial.name.startswith(f"{path.name}."):
            continue
        if not partial.name.endswith(".partial"):
            continue
        with contextlib.suppress(OSError):  # in use, or removed by another process
            lock = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(partial)
            finally:
                os.close(lock)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
