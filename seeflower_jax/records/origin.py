"""Describe the command, code, versions and devices of a result.

result |= provenance(typed_command())
"""

import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

import jax

from seeflower_jax.sharding import allocator

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
# They decide how fast a CPU computes in float32 and in bfloat16.
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def command_line(script: str, arguments: Sequence[str]) -> str:
    """Return the command line of a script of scripts/, with ~ for the home folder."""
    return without_home(shlex.join(["python", "-m", f"scripts.{script}", *arguments]))


def without_home(text: str) -> str:
    """Return a text with ~ for the home folder, where a path starts with the folder.

    A path starts after a space, a quote, a bracket or one of `=,:;`. The root folder,
    which is the home folder of some users, is kept.
    """
    home = os.path.expanduser("~")
    if home == os.sep:
        return text
    before, after = r"(?<![^\s'\"=,:;(\[{])", r"(?![^\s'\"/,:;)\]}])"
    return re.sub(before + re.escape(home) + after, "~", text)


def typed_command() -> str:
    """Return the command line of the script that runs now."""
    return command_line(pathlib.Path(sys.argv[0]).stem, sys.argv[1:])


def _git_commit() -> str | None:
    """Return the commit of the source tree, with '-dirty' if files have changed.

    The result is None if git does not track this file. The package may be installed
    below the repository of another project.
    """
    path = pathlib.Path(__file__)
    options = ["--always", "--abbrev=40", "--dirty", "--exclude=*"]
    if not _git(path.parent, "ls-files", path.name):
        return None
    return _git(path.parent, "describe", *options) or None


def _git(folder: pathlib.Path, *arguments: str) -> str:
    """Return what git prints in a folder; "" after an error or without git."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def matmul_precision() -> str:
    """Return the precision of float32 matrix products in this context."""
    chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return str(chosen or "default")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it.
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def device() -> str:
    """Return the number and the kind of the devices, such as '1 x gpu (NVIDIA L4)'."""
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    suffix = f", {cores()} cores" if device.platform == "cpu" else ""
    return f"{len(jax.devices())} x {device.platform} ({kind}{suffix})"


def _cpu_features() -> list[str]:
    """Return the extensions for vectors and matrices that the CPU has, on Linux."""
    try:
        words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in _CPU_FEATURES if name in words]


def provenance(command: str) -> dict:
    """Return the provenance of a result.

    The dict has the command, commit, versions, compiler flags, settings of the C
    library, names of preloaded libraries (an allocator of memory, for example), whether
    freed memory is kept, precision of float32 matrix products, devices, and features of
    the CPU.
    """
    preloaded = re.split("[ :]+", os.environ.get("LD_PRELOAD", ""))
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "command": command,
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "preloaded": [os.path.basename(path) for path in preloaded if path],
        "memory_kept": allocator.is_kept(),
        "matmul_precision": matmul_precision(),
        "device": device(),
        "cpu_features": _cpu_features(),
    }
