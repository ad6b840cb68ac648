"""Record runs and results: JSON files, hashes of configs, provenance, locks of folders.

result |= records.provenance(records.typed_command())
with records.lock(folder):
    records.write_json(folder / "result.json", result)
"""

import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seeflower_jax.records.files import (
    PARTIAL,
    FullDiskError,
    creating,
    exclusive,
    is_full_disk,
    replacing,
)
from seeflower_jax.records.later_keys import with_later_keys, without_later_keys
from seeflower_jax.records.locks import FolderInUseError, lock
from seeflower_jax.records.origin import (
    command_line,
    cores,
    device,
    matmul_precision,
    provenance,
    typed_command,
    without_home,
)

__all__ = [
    "LOCAL_KEYS",
    "LOG_FILE",
    "PARTIAL",
    "PRETRAINING",
    "DamagedFileError",
    "FolderInUseError",
    "FullDiskError",
    "add_entry",
    "command_line",
    "config_hash",
    "cores",
    "creating",
    "device",
    "flat",
    "is_full_disk",
    "lock",
    "matmul_precision",
    "plain",
    "provenance",
    "read_json",
    "read_log",
    "read_logs",
    "read_result",
    "read_sections",
    "replacing",
    "to_dict",
    "training_seconds",
    "training_seconds_with_pretraining",
    "typed_command",
    "variables_hash",
    "with_later_keys",
    "without_home",
    "write_json",
    "write_measurements",
]

LOG_FILE = "metrics.jsonl"  # file name in a run directory
PRETRAINING = "pretraining"  # the pretraining run in a run directory
# The location of files and of images on a machine does not change the result of a run.
# `experiment.workdir` compares the content of files that have moved.
LOCAL_KEYS = (
    ("data", "dir"),
    ("data", "cache_dir"),
    ("data", "on_device"),
    ("device", "compilation_cache"),
    ("init", "weights"),
    ("distillation", "logits"),
)


class DamagedFileError(ValueError):
    """A file does not have the content that this package writes."""


def to_dict(config: Mapping) -> dict:
    """Return a config as nested dicts; it may be a ConfigDict or nested dicts."""
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def plain(config: Mapping) -> dict:
    """Return a config as nested dicts of JSON values."""
    return json.loads(json.dumps(to_dict(config)))


def config_hash(config: Mapping) -> str:
    """Return 12 hex digits of the SHA-256 of a config without its local paths.

    If a newer key has the value that means its absence, the hash leaves out the key.
    The hash of an old config therefore stays the same, unless its pretraining has local
    paths, which were once a part of it.
    """
    hashed = plain(config)
    for values in (hashed, hashed.get("init", {}).get("pretraining", {})):
        for section, key in LOCAL_KEYS:
            values.get(section, {}).pop(key, None)
    text = json.dumps(without_later_keys(hashed), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def variables_hash(variables: Mapping) -> str:
    """Return 12 hex digits of the SHA-256 of a network's variables, by name."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def flat(
    tree: Mapping, separator: str = ".", prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of the leaves of nested dicts, such as `("data.dir", "")`."""
    for key, value in to_dict(tree).items():
        if isinstance(value, Mapping):
            yield from flat(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, completely or not at all.

    Missing parent folders are created.
    """
    path = pathlib.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def write_measurements(path: str | os.PathLike, measured: Mapping) -> None:
    """Write what the script that runs now has measured, with its provenance."""
    write_json(path, {**measured, **provenance(typed_command())})


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


def read_sections(
    path: pathlib.Path, sections: Mapping[str, type], advice: str
) -> dict:
    """Return the content of a JSON file with sections; {} if there is no file.

    Args:
      path: the file.
      sections: {key: its type}, for keys that the file must have.
      advice: what to do about a damaged file.

    Raises:
      DamagedFileError: if the file is damaged, or lacks a section.
    """
    if not path.exists():
        return {}
    content = read_json(path, advice)
    for key, kind in sections.items():
        if not isinstance(content.get(key), kind):
            raise DamagedFileError(f"{path} is damaged: it has no {key}; {advice}")
    return content


def read_result(workdir: str | os.PathLike) -> dict:
    """Return the content of `result.json`; {} if the run is not finished.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(workdir).expanduser() / "result.json"
    if not path.exists():
        return {}
    advice = "start the training command again, which evaluates the run again"
    result = read_json(path, advice)
    for key, (expected, accepts) in _RESULT.items():
        if key in result and not accepts(result[key]):
            raise DamagedFileError(
                f"{path} is damaged: {key} is {result[key]!r}, expected {expected}; "
                f"{advice}"
            )
    return result


def training_seconds(result: Mapping) -> float:
    """Return the time of the stages in a `result.json`, without the evaluation."""
    return sum(s for name, s in result["seconds"].items() if name != "evaluation")


def training_seconds_with_pretraining(result: Mapping) -> float:
    """Return `training_seconds` of a run and of its pretraining, if it has one."""
    before = result.get("pretraining", {"seconds": {}})
    return training_seconds(result) + training_seconds(before)


def _is_calibration(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    temperature = value.get("temperature")
    return isinstance(temperature, int | float) and 0 < temperature < math.inf


def _are_metrics(value: Any) -> bool:
    names = {"top1", "mean_class_top1", "top5", "loss", "count"}
    return (
        isinstance(value, dict)
        and names <= value.keys()
        and all(isinstance(number, int | float) for number in value.values())
    )


_METRICS = ("metrics as numbers", _are_metrics)
_CALIBRATION = ("a temperature above 0", _is_calibration)
# {key of result.json: (what is expected, function that accepts a value)}
_RESULT: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "validation": _METRICS,
    "test": _METRICS,
    "calibration": _CALIBRATION,
    "test_time_calibration": _CALIBRATION,
    "best": ("a dict", lambda value: isinstance(value, dict)),
}


def read_log(workdir: str | os.PathLike) -> list[dict]:
    """Return the objects of `metrics.jsonl`, one for each epoch; [] without the file.

    An incomplete last line is left out: the run still writes this line, or was
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


def read_logs(workdir: str | os.PathLike) -> list[dict]:
    """Return the log of a run, after the log of its pretraining run if it has one.

    The stages of the pretraining run get the names "pretraining: <stage>".
    """
    path = pathlib.Path(workdir).expanduser() / "config.json"
    advice = "start the training command again to write it again"
    config = read_json(path, advice) if path.exists() else {}
    if not config.get("init", {}).get("pretraining"):
        return read_log(workdir)  # Another config may have left its pretraining run.
    before = read_log(path.parent / PRETRAINING)
    named = [line | {"stage": f"{PRETRAINING}: {line['stage']}"} for line in before]
    return named + read_log(workdir)


def add_entry(
    path: str | os.PathLike,
    network: str,
    key: str,
    entry: dict,
    same: Sequence[str] = (),
) -> None:
    """Set an entry in a file of results, {network: {key: entry}}; keep the others.

    Several processes may add entries at the same time. Missing parent folders are
    created.

    Args:
      path: the file.
      network, key: the place of the entry.
      entry: the entry, JSON-serialisable.
      same: names of values. If the file has an entry with the same values of these
        names, its other values are kept unless `entry` has them, too.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(path).expanduser()
    advice = "restore it from a copy, or remove it to record the results again"
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent):
        results = read_json(path, advice) if path.exists() else {}
        entries = results.setdefault(network, {})
        if not isinstance(entries, dict):
            raise DamagedFileError(
                f"{path} is damaged: {network} is {entries!r}; {advice}"
            )
        known, entry = entries.get(key, {}), plain(entry)
        if same and all(known.get(name) == entry.get(name) for name in same):
            entry = known | entry
        entries[key] = entry
        write_json(path, results)
