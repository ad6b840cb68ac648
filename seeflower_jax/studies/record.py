"""Record results in results/, and write RESULTS.md from them.

    record("runs/inception_v3_official_seed0", "results")
    written, refused = record_all(["runs/*"], "results")
    write_results("results", "RESULTS.md")

A result has the name <model>_<split>_<recipe>_<dtype>_seed<n>.json, without the recipe
`best` and without the type float32. The run directories of `reproduce` have the same
names, without the type.
"""

import glob
import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from seeflower_jax import records
from seeflower_jax.data import oxford_flowers
from seeflower_jax.inference.run import load_config
from seeflower_jax.studies import (
    ablation,
    directions,
    directions_tables,
    gaps,
    outside_data,
    tables,
)
from seeflower_jax.studies.rows import (
    FLOAT32,
    PUBLISHED,
    ROWS,
    SEEDS,
    dtype_of,
    suffix,
)

_INTRODUCTION = (
    "# Results\n\n`python -m scripts.reproduce --report` writes this page from the "
    "files in `results/`.\n"
)

# The keys of a result and of the metrics of a split that the tables show.
_KEYS = ("model", "split", "recipe", "seed", "weights", "device", "seconds")
_KEYS += ("versions", "git_commit", "config_hash", "command")
_METRICS = ("top1", "mean_class_top1", "count")


class UnsuitableRunError(ValueError):
    """A run is finished, but the tables cannot show its result."""


def result_name(result: Mapping) -> str:
    """Return the name of the run of a result."""
    parts = suffix(result["recipe"], dtype_of(result))
    names = [result["model"], result["split"], *parts, f"seed{result['seed']}"]
    return "_".join(names)


def load_results(folder: str | os.PathLike) -> list[dict]:
    """Read the recorded results of runs, in the order of their file names.

    Files with other names than ..._seed<n>.json are left out.

    Raises:
      DamagedFileError: if a file is not the result of a run.
      ValueError: if the content of a file belongs under another name.
    """
    results = []
    for path in sorted(pathlib.Path(folder).expanduser().glob("*.json")):
        if not re.fullmatch(r".*_seed\d+", path.stem):
            continue
        result = _read(path)
        if path.stem != result_name(result):
            raise ValueError(
                f"{path} holds the result of {result_name(result)}; rename it, or "
                "record the run again with scripts.reproduce --record"
            )
        results.append(result)
    return results


def _read(path: pathlib.Path) -> dict:
    """Return the content of a result; check that it has all that the tables show."""
    advice = "start the command of the run again, which evaluates the run again"
    result = records.read_json(path, advice)
    missing = [key for key in _KEYS if key not in result]
    for split in ("validation", "test"):
        metrics = result.get(split, dict.fromkeys(_METRICS))
        given = set(metrics) if isinstance(metrics, dict) else set()
        missing += [f"{split}.{key}" for key in _METRICS if key not in given]
    if missing:
        raise records.DamagedFileError(
            f"{path} is damaged: it has no {', '.join(missing)}; {advice}"
        )
    return result


def find_runs(pattern: str) -> list[str]:
    """Return the finished runs that match a pattern; a path is returned as it is.

    Raises:
      FileNotFoundError: if the pattern matches no finished run, or the path is not a
        finished run.
    """
    if not glob.has_magic(pattern):
        _check_finished(pathlib.Path(pattern).expanduser())
        return [pattern]
    paths = glob.glob(os.path.expanduser(f"{pattern}/config.json"))
    folders = sorted(map(os.path.dirname, paths))
    finished = [run for run in folders if os.path.exists(f"{run}/result.json")]
    if not finished:
        raise FileNotFoundError(
            f"{pattern} matches {len(folders)} runs, and none is finished; a finished "
            "run has a result.json"
        )
    return finished


def _check_finished(workdir: pathlib.Path) -> None:
    for name in ("config.json", "result.json"):
        if not (workdir / name).exists():
            raise FileNotFoundError(
                f"{workdir} is not a finished run: it has no {name}"
            )


def record_all(
    patterns: Sequence[str], folder: str | os.PathLike
) -> tuple[list[pathlib.Path], list[str]]:
    """Record runs; if one is refused, continue with the next run.

    A pattern leaves out the runs for which `record` raises an UnsuitableRunError. The
    log has their number.

    Args:
      patterns: run directories, or patterns of them.
      folder: the folder of results.

    Returns:
      The paths of the recorded results, and the refused runs. The log has the reasons.

    Raises:
      FileNotFoundError: as `find_runs`; nothing is recorded.
    """
    written: list[pathlib.Path] = []
    refused: list[str] = []
    for pattern, runs in [(pattern, find_runs(pattern)) for pattern in patterns]:
        unsuitable = 0
        for run in runs:
            try:
                written.append(record(run, folder))
            except ValueError as error:
                if isinstance(error, UnsuitableRunError) and run != pattern:
                    unsuitable += 1
                    continue
                logging.error("%s", error)
                refused.append(run)
        if unsuitable:
            logging.info(
                "%s: %d of %d finished runs are left out: smoke runs, runs without "
                "test metrics or runs on other images",
                pattern,
                unsuitable,
                len(runs),
            )
    return written, refused


def record(workdir: str | os.PathLike, folder: str | os.PathLike) -> pathlib.Path:
    """Copy the result of a finished run into a folder of results; return its path.

    The copy also has `dtype`, the type of the computation.

    Raises:
      FileNotFoundError: if the run is not finished.
      DamagedFileError: if `result.json` or `config.json` is damaged.
      UnsuitableRunError: if the run has the smoke budget, no metrics of the test split,
        or other images than Oxford 102 Flowers.
      ValueError: see `keep`.
    """
    workdir = pathlib.Path(workdir).expanduser()
    _check_finished(workdir)
    result = _read(workdir / "result.json")
    if result["recipe"].endswith("_smoke"):
        raise UnsuitableRunError(
            f"{workdir} is a run of the smoke budget; not recorded"
        )
    if "test" not in result:
        raise UnsuitableRunError(
            f"{workdir} has no metrics of a test split; if its images have one, run "
            "the same command again without --notest"
        )
    config = load_config(workdir)
    source = config["data"].get("source")
    if source != oxford_flowers.NAME:
        raise UnsuitableRunError(
            f"{workdir} has data.source {source!r}; not recorded, because the tables "
            f"are of {oxford_flowers.NAME!r}"
        )
    dtype = config["model"].get("dtype", FLOAT32)
    return keep(result | {"dtype": dtype}, folder)


def keep(result: Mapping, folder: str | os.PathLike) -> pathlib.Path:
    """Write a result into a folder of results; return its path, see `path_of`."""
    path = path_of(result, folder)
    records.write_json(path, result)
    return path


def path_of(result: Mapping, folder: str | os.PathLike) -> pathlib.Path:
    """Return the path of a result in a folder of results.

    Raises:
      ValueError: if the folder has the result of another config under this name.
    """
    path = pathlib.Path(folder).expanduser() / f"{result_name(result)}.json"
    if path.exists():
        recorded, measured = _read(path)["config_hash"], result["config_hash"]
        if recorded != measured:
            raise ValueError(
                f"{path} has the result of another config, {recorded} there, "
                f"{measured} now; if the recipe itself has changed, delete the file "
                "and record the run again"
            )
    return path


def write_results(folder: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write RESULTS.md from a folder of recorded results alone."""
    results = load_results(folder)
    ablated = ablation.load_results(folder)
    parts = [
        _INTRODUCTION,
        tables.paper_tables(ROWS, PUBLISHED, results),
        tables.ablation_table(ablated, results),
        directions_tables.directions_section(
            directions.load_rows(folder), results, outside_data.load(folder)
        ),
        tables.origins(results, result_name),
        gaps.missing(ROWS, SEEDS, results, ablated),
    ]
    text = "\n".join(part for part in parts if part)
    with records.replacing(pathlib.Path(path).expanduser()) as partial:
        partial.write_text(text, encoding="utf-8")
