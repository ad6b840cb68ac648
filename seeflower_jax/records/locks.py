"""Reserve a folder for one process.

with locks.lock(folder):
    (folder / "result.json").write_text(content)
"""

import contextlib
import datetime
import errno
import functools
import json
import logging
import os
import pathlib
import socket
import threading
from collections.abc import Iterator

from seeflower_jax.records.files import is_at
from seeflower_jax.sharding import processes

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_LOCK_FILE = ".lock"  # in every folder that a process is writing to
_held = threading.local()  # `folders` lists the folders that the thread has locked


class FolderInUseError(RuntimeError):
    """Another process is writing to a folder."""


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
    """Reserve a folder for this process for as long as it writes to the folder.

    The lock is a `flock` of the file `.lock` in the folder, which names the process.
    The system frees the lock when the process ends, however it ends. A thread may lock
    a folder again. On a file system without `flock`, a warning is logged instead. Only
    the first process of a run takes the lock.

    Args:
      folder: the folder, which is created if it is missing. A created folder that is
        still empty at the end is removed.

    Raises:
      FolderInUseError: if another process or thread has locked the folder.
      OSError: if the folder cannot be created or written to.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    folders = vars(_held).setdefault("folders", set())
    if folder in folders or not processes.is_main():
        yield
        return
    created = not folder.exists()
    if not created and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder")
    descriptor = _open_lock(folder)
    folders.add(folder)
    try:
        yield
    finally:
        folders.remove(folder)
        # The file is removed while it is locked, so that `_open_lock` notices the
        # removal.
        (folder / _LOCK_FILE).unlink(missing_ok=True)
        os.close(descriptor)
        if created:
            with contextlib.suppress(OSError):  # the folder may not be empty
                folder.rmdir()


def _open_lock(folder: pathlib.Path) -> int:
    """Lock the file `.lock` of a folder, and return the file's descriptor."""
    path = folder / _LOCK_FILE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if folder.exists():
                raise
            continue  # Another process has just removed the folder that it created.
        except PermissionError:
            if fcntl is None or not path.exists():
                raise
            _remove_abandoned(folder)
            continue
        try:
            if fcntl is None:
                raise OSError("this system has no flock")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(descriptor) as file:
                raise FolderInUseError(_in_use(folder, file.read())) from None
        except OSError as error:
            _warn_without_lock(folder, error.strerror or str(error))
            return descriptor
        if is_at(path, descriptor):
            break
        os.close(descriptor)  # The last holder has removed the file in the meantime.
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())
    return descriptor


def _remove_abandoned(folder: pathlib.Path) -> None:
    """Remove the lock file of another user, unless a process holds it.

    A process that is killed leaves its lock file. Locking it needs no right to write
    the file, and removing it only needs the right to write to the folder.
    """
    path = folder / _LOCK_FILE
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(_in_use(folder, file.read())) from None
        except OSError:  # Network disks lock no file that is open for reading alone.
            reason = os.strerror(errno.EACCES)
            raise PermissionError(errno.EACCES, reason, str(path)) from None
        if is_at(path, file.fileno()):
            path.unlink()


@functools.cache
def _warn_without_lock(folder: pathlib.Path, reason: str) -> None:
    """Log once that a folder cannot be locked."""
    logging.warning(
        "%s cannot be locked (%s); let only one process at a time write to it",
        folder,
        reason,
    )


def _in_use(folder: pathlib.Path, holder: str) -> str:
    """Describe who has locked a folder, from the content of its lock file."""
    try:
        who = "process {pid} on {host} has been writing to it since {since}".format(
            **json.loads(holder)
        )
    except (ValueError, TypeError, KeyError):  # the other process is writing the file
        who = "another process is writing to it"
    return f"{folder} is in use: {who}; wait until it ends, or give another folder"
