"""Record runs and results: JSON files, hashes of configs, and provenance.

result |= records.provenance(records.typed_command())
records.write_json(path, result)
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
LOG_FILE = "metrics.jsonl"  # file name in a run directory
# The location of files on a machine does not change the result of a run.
LOCAL_KEYS = (("data", "dir"), ("data", "cache_dir"), ("init", "weights"))


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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a value as indented JSON, to the complete file or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def read_result(workdir: str | os.PathLike) -> dict:
    """Return the content of `result.json`; {} if the run is not finished."""
    path = pathlib.Path(workdir).expanduser() / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def read_log(workdir: str | os.PathLike) -> list[dict]:
    """Return the objects of `metrics.jsonl`, one for each epoch; [] if it is absent.

    An incomplete last line is left out. The run is still writing the line, or was
    interrupted.
    """
    path = pathlib.Path(workdir).expanduser() / LOG_FILE
    text = path.read_text() if path.exists() else ""
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in complete.splitlines()]


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
