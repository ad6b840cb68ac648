"""Write files and folders completely or not at all.

with files.replacing(path) as partial:          # `path` may exist
    partial.write_text("content")
with files.creating("out/model.h5") as partial:  # `path` is a new file or folder
    write(partial)
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = "partial_"  # start of the names of files that are not complete
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CODES = "|".join(str(code) for code in _FULL)
# NumPy: "4096 requested and 512 written"; TensorStore: "[os_error_code='28']"; HDF5:
# "errno = 28".
_FULL_TEXTS = (
    rf"requested and \d+ written|os_error_code='({_CODES})'|errno = ({_CODES})\b|"
    "no space left|disk quota exceeded"
)


class FullDiskError(OSError):
    """A file does not fit on the disk."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(
            f"cannot write {path}: the disk is full; free some space, then start the "
            "same command again"
        )


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error of any library is about a full disk."""
    if isinstance(error, FullDiskError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return re.search(_FULL_TEXTS, str(error), re.IGNORECASE) is not None


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path to write to; the complete file replaces `path`.

    The file is on disk before it gets its name. After an error the incomplete file is
    removed, and `path` is as it was.

    Raises:
      FullDiskError: if the disk is full.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_full_disk(error):
            raise FullDiskError(path) from error
        raise


@contextlib.contextmanager
def creating(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a path to write a new file or folder to, and rename it to `path`.

    The path is in the `workspace` of `path`.

    Args:
      path: the file or folder to write; missing parent folders are created.

    Raises:
      FileExistsError: if `path` exists.
      FullDiskError: if the disk is full.
    """
    path = pathlib.Path(path).expanduser()
    _check_new(path)
    try:
        with workspace(path) as folder:
            yield folder / path.name
            _check_new(path)
            os.replace(folder / path.name, path)
    except Exception as error:
        if is_full_disk(error):
            raise FullDiskError(path) from error
        raise


@contextlib.contextmanager
def workspace(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a new hidden folder next to `path`, and remove the folder at the end.

    If the process is killed, the next call for the same `path` removes the folder. A
    lock on the folder shows that its process is alive. On a disk without locks,
    abandoned folders stay.

    Args:
      path: the file or folder to write; missing parent folders are created. The caller
        writes into the workspace and renames the complete file or folder to `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = _workspace_prefix(path)
    _remove_abandoned(path.parent, prefix)
    folder, descriptor = _make_locked(path.parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def lock_descriptor(descriptor: int, wait: bool) -> bool:
    """Lock an open file or folder for this process; the end of the process unlocks it.

    Windows and some network disks have no locks. There, every call returns True.

    Args:
      descriptor: descriptor of the open file or folder.
      wait: whether to wait until another process unlocks it.

    Returns:
      False if another process holds the lock and `wait` is False.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def open_locked(path: str | os.PathLike, wait: bool = True) -> BinaryIO:
    """Open a file for appending and lock it; create the file if it is missing.

    Closing the file unlocks it. See `lock_descriptor` for disks without locks.

    Args:
      path: the file. The last holder of the lock may have renamed or removed it. The
        result is then a new file.
      wait: whether to wait until another process unlocks the file.

    Raises:
      BlockingIOError: if another process holds the lock and `wait` is False.
    """
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "ab+"))
            if not lock_descriptor(file.fileno(), wait):
                raise BlockingIOError(f"{path} is locked by another process")
            if is_at(path, file.fileno()):
                stack.pop_all()
                return file


def is_at(path: str | os.PathLike, descriptor: int) -> bool:
    """Return whether a path leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """Hold the lock of a folder; wait until no other process or thread holds it.

    The lock is on the folder itself, so it leaves no file. See `lock_descriptor` for
    disks without locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock_descriptor(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _workspace_prefix(path: pathlib.Path) -> str:
    return f".{path.name}.partial-"


def _check_new(path: pathlib.Path) -> None:
    if os.path.lexists(path):
        # A process that was killed after the rename leaves its empty workspace.
        _remove_abandoned(path.parent, _workspace_prefix(path))
        raise FileExistsError(f"{path} exists; give another name")


def _make_locked(parent: pathlib.Path, prefix: str) -> tuple[pathlib.Path, int]:
    """Return a new locked folder and its descriptor."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        lock_descriptor(descriptor, wait=True)
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
        except OSError:  # the process has just removed its folder
            continue
        try:
            if lock_descriptor(descriptor, wait=False):
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
