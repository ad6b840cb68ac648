"""Keep compiled functions on disk, so that the next process starts sooner.

compilation.keep("~/.cache/seeflower_jax")      # before JAX compiles a function
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import zlib

import jax
from jax.experimental.compilation_cache import compilation_cache

FOLDER = "compiled"  # in a cache directory
_DEFAULT_DIR = "~/.cache/seeflower_jax"
_KEY = "jax_compilation_cache_dir"
_chosen: list[str] = []  # the folders that `keep` has chosen


def keep(cache_dir: str | os.PathLike = "", enabled: bool = True) -> None:
    """Let JAX keep compiled functions in a cache directory and reuse them.

    Settings of the user take precedence: JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE=false, or the same keys of `jax.config`. A later call
    may choose another cache directory.

    Args:
      cache_dir: the cache directory; '' is ~/.cache/seeflower_jax.
      enabled: False undoes an earlier call.
    """
    current = jax.config.values[_KEY]
    if current is not None and current not in _chosen:
        return
    if not enabled or not jax.config.values["jax_enable_compilation_cache"]:
        _use(None)
        return
    path = folder(cache_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.info(
            "compiled functions cannot be kept in %s: %s", path, error.strerror
        )
        return
    # A folder may be read-only, and several processes may remove the same entry.
    with contextlib.suppress(OSError):
        _remove_unfinished(path)
    _chosen.append(str(path))
    _use(str(path))


def _use(path: str | None) -> None:
    """Let JAX use a folder from now on, even if it has opened another one."""
    if path != jax.config.values[_KEY]:
        jax.config.update(_KEY, path)
        compilation_cache.reset_cache()


def folder(cache_dir: str | os.PathLike = "") -> pathlib.Path:
    """Return the folder of a cache directory for functions compiled by this machine."""
    return pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser() / FOLDER / _machine()


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Remove entries that a full disk or the end of a process has cut off.

    JAX would compile such a function at each start, with a warning, because it does not
    replace entries. Entries from before the last call are not read again. JAX
    compresses entries by zlib, unless zstandard is installed; then they are not read.
    """
    checked = folder / "checked"
    since = checked.stat().st_mtime_ns if checked.exists() else 0
    checked.touch()
    for path in folder.glob("*-cache"):
        if path.stat().st_mtime_ns >= since and not _is_complete(path.read_bytes()):
            path.unlink(missing_ok=True)


def _is_complete(entry: bytes) -> bool:
    if entry[:1] not in (b"", b"\x78"):  # not of zlib
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(entry)
    except zlib.error:
        return False
    return stream.eof


def _machine() -> str:
    """Return a name for the processor type of this machine.

    A function that is compiled for a processor may crash on an older processor, and
    several machines may share a home folder.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    known = sorted(
        {x for x in lines if x.startswith(("flags", "Features", "model name"))}
    )
    digest = hashlib.sha256("\n".join(known or lines[:1]).encode()).hexdigest()[:8]
    return f"{platform.machine()}_{digest}"
