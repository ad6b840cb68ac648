"""Write a file or a folder completely or not at all.

with files.replacing("out/model.h5") as partial:
    write(partial)                  # `out/model.h5` appears when the block ends
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "errno = 28")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a path to write a new file or folder to, and rename it to `path`.

    The path is in a hidden folder next to `path`. The folder is removed if the block
    fails. If the process is killed, the next call for the same `path` removes the
    folder. A lock on the folder shows that its process is alive.

    Args:
      path: the file or folder to write; missing parent folders are created.

    Raises:
      FileExistsError: if `path` exists.
      OSError: if the disk is full; the message names `path`.
    """
    path = pathlib.Path(path).expanduser()
    _check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    _remove_abandoned(path.parent, prefix)
    folder, descriptor = _make_locked(path.parent, prefix)
    try:
        yield folder / path.name
        _check_new(path)
        os.replace(folder / path.name, path)
    except Exception as error:
        if is_disk_full(error):
            raise OSError(
                f"{path} cannot be written: the disk is full; free some space and "
                "repeat the command"
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, of any library, says that the disk or quota is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(text in str(error).lower() for text in _FULL_TEXTS)


def lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file or folder for this process; the end of the process unlocks it.

    Some network disks have no locks. There, every call returns True.

    Args:
      descriptor: of the open file or folder.
      wait: whether to wait until another process unlocks it.

    Returns:
      False if another process holds the lock and `wait` is False.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _check_new(path: pathlib.Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; give another name")


def _make_locked(parent: pathlib.Path, prefix: str) -> tuple[pathlib.Path, int]:
    """Return a new locked folder and its descriptor."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        lock(descriptor, wait=True)
        if folder.exists():  # no other process removed it before it was locked
            return folder, descriptor
        os.close(descriptor)


def _remove_abandoned(parent: pathlib.Path, prefix: str) -> None:
    """Remove the folders of processes that were killed."""
    for folder in parent.iterdir():
        if not folder.name.startswith(prefix) or not folder.is_dir():
            continue
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:  # its process has just removed it
            continue
        try:
            if lock(descriptor, wait=False):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def set_default_mode(path: str | os.PathLike) -> None:
    """Give a file the mode of new files, which the umask decides.

    Some libraries create files that only their owner can read.
    """
    probe = pathlib.Path(f"{path}.mode")
    probe.touch()
    try:
        os.chmod(path, probe.stat().st_mode)
    finally:
        probe.unlink()
