"""Record runs and results: JSON files, hashes of configs, provenance, locks of folders.

result |= records.provenance(records.typed_command())
with records.lock(folder):
    records.write_json(folder / "result.json", result)
"""

import contextlib
import datetime
import errno
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
LOG_FILE = "metrics.jsonl"  # file name in a run directory
PARTIAL = "partial_"  # start of the names of files that are not complete
_LOCK_FILE = ".lock"  # in every folder that a process is writing to
_held = threading.local()  # its `folders` are those that the thread has locked
# The location of files on a machine does not change the result of a run.
LOCAL_KEYS = (("data", "dir"), ("data", "cache_dir"), ("init", "weights"))


class FolderInUseError(RuntimeError):
    """Another process is writing to a folder."""


class FullDiskError(OSError):
    """A file does not fit on the disk."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(
            f"cannot write {path}: the disk is full; free some space, then start the "
            "same command again"
        )


class DamagedFileError(ValueError):
    """A file has other content than a process of this package writes."""


def to_dict(config: Mapping) -> dict:
    """Return a config as nested dicts; it may be a ConfigDict or nested dicts."""
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def plain(config: Mapping) -> dict:
    """Return a config as nested dicts of JSON values."""
    return json.loads(json.dumps(to_dict(config)))


def config_hash(config: Mapping) -> str:
    """Return 12 hex digits of the SHA-256 of a config without its local paths."""
    hashed = plain(config)
    for section, key in LOCAL_KEYS:
        hashed.get(section, {}).pop(key, None)
    text = json.dumps(hashed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def variables_hash(variables: Mapping) -> str:
    """Return 12 hex digits of the SHA-256 of a network's variables, by name."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def flat(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the leaves of a config, such as `("data.dir", "")`."""
    for key, value in to_dict(config).items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error, also one of another library, is about a full disk."""
    if isinstance(error, FullDiskError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # NumPy: "4096 requested and 512 written"; TensorStore: "[os_error_code='28']".
    codes = "|".join(str(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    pattern = rf"requested and \d+ written|os_error_code='({codes})'|No space left"
    return re.search(pattern, str(error)) is not None


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield another path to write to, which becomes `path` once it is complete.

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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a value as indented JSON, to the complete file or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path, advice: str) -> dict:
    """Return the object of a JSON file.

    Args:
      path: the file.
      advice: what to do if the file is damaged, for the error.

    Raises:
      DamagedFileError: if the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it has a {type(value).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}; {advice}") from error
    return value


def read_result(workdir: str | os.PathLike) -> dict:
    """Return the content of `result.json`; {} if the run is not finished.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(workdir).expanduser() / "result.json"
    advice = "start the training command again, which evaluates the run again"
    return read_json(path, advice) if path.exists() else {}


def read_log(workdir: str | os.PathLike) -> list[dict]:
    """Return the objects of `metrics.jsonl`, one for each epoch; [] if it is absent.

    An incomplete last line is left out. The run is still writing the line, or was
    interrupted. Damaged lines are left out with a warning that names the file.
    """
    path = pathlib.Path(workdir).expanduser() / LOG_FILE
    content = path.read_bytes() if path.exists() else b""
    *complete, _ = content.split(b"\n")
    lines, damaged = [], []
    for number, text in enumerate(complete, 1):
        try:
            line = json.loads(text)
            if not isinstance(line["run_step"], int):
                raise TypeError("run_step is a number of steps")
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(str(number))
        else:
            lines.append(line)
    if damaged:
        logging.warning("%s: line %s is damaged and left out", path, ", ".join(damaged))
    return lines


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
    """Reserve a folder for this process for as long as it writes to the folder.

    The lock is a `flock` of the file `.lock` in the folder, which names the process.
    The system frees the lock when the process ends, however it ends. A thread may lock
    a folder again. On a file system without `flock`, a warning is logged instead. Of
    the processes of one multi-process JAX program, only the first takes the lock.

    Args:
      folder: the folder, which is created if it is missing. A created folder that is
        still empty at the end is removed.

    Raises:
      FolderInUseError: if another process or thread has locked the folder.
      OSError: if the folder cannot be created or written to.
    """
    folder = pathlib.Path(folder).expanduser().resolve()
    folders = vars(_held).setdefault("folders", set())
    follows = jax.distributed.is_initialized() and jax.process_index() > 0
    if folder in folders or follows:
        yield
        return
    created = not folder.exists()
    descriptor = _open_lock(folder)
    folders.add(folder)
    try:
        yield
    finally:
        folders.remove(folder)
        # While the file is still locked: `_open_lock` then notices that it is gone.
        (folder / _LOCK_FILE).unlink(missing_ok=True)
        os.close(descriptor)
        if created:
            with contextlib.suppress(OSError):  # The folder is not empty.
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
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # The last holder has removed the file in the meantime.
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())
    return descriptor


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    """Return whether a path is that of an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


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
    except (ValueError, TypeError, KeyError):  # The other process writes it just now.
        who = "another process is writing to it"
    return f"{folder} is in use: {who}; wait until it ends, or give another folder"


def add_entry(path: str | os.PathLike, network: str, key: str, entry: dict) -> None:
    """Set an entry in a file of results, {network: {key: entry}}; keep the others."""
    path = pathlib.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results.setdefault(network, {})[key] = entry
    write_json(path, results)


def command_line(script: str, arguments: Sequence[str]) -> str:
    """Return the command line of a script of scripts/, with ~ for the home folder."""
    command = shlex.join(["python", "-m", f"scripts.{script}", *arguments])
    return command.replace(str(pathlib.Path.home()), "~")


def typed_command() -> str:
    """Return the command line of the script that runs now."""
    return command_line(pathlib.Path(sys.argv[0]).stem, sys.argv[1:])


def _git_commit() -> str | None:
    """Return the commit of the source tree, with '-dirty' if files have changed."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe"]
    options = ["--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command + options, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def provenance(command: str) -> dict:
    """Return the provenance of a result.

    The dict has the command, commit, versions, compiler flags and devices.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return {
        "command": command,
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "device": f"{len(jax.devices())} x {device.platform} ({kind}{cores})",
    }
