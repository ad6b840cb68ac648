"""Evaluate a run on whole splits, and keep its logits in the run directory.

    evaluation = evaluate(load_run("runs/inception_seed0"), "test")
    evaluation.metrics["top1"], evaluation.logits
    write(folder, evaluation, class_names)          # tables and plots

The run directory keeps two kinds of logits. The recorded result uses logits that are
averaged over the test-time views of the config. A prediction uses logits of a single
view. Each kind has its own temperature, fitted on the validation split.
"""

import csv
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from seeflower_jax import records, sharding
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.evaluation.evaluator import Compute, Evaluator
from seeflower_jax.experiment import images, kept, precision
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.figures import evaluation as plots
from seeflower_jax.inference.run import Run
from seeflower_jax.sharding import processes

UNCALIBRATED = {"fitted_on": None, "temperature": 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluation of a split.

    Attributes:
      split: name of the split.
      metrics: metrics from `metrics.compute`.
      logits: logits of each image.
      labels: label of each image.
      temperature: temperature that calibrates these logits; 1 if none was fitted.
    """

    split: str
    metrics: dict[str, float]
    logits: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, " n"]
    temperature: float


def make_evaluator(
    run: Run, views: Sequence | None = None, mirror: bool | None = None
) -> Evaluator:
    """Return the evaluator of a run.

    Args:
      run: run from `load_run`.
      views: what the network sees; the test-time views of the config by default.
      mirror: whether the mirror image of each view is averaged too; the value of the
        config by default.
    """
    settings = settings_of(run)
    return Evaluator(
        run.network.spec,
        settings.views if views is None else tuple(views),
        settings.batch_size,
        sharding.make_mesh(),
        settings.mirror if mirror is None else mirror,
        run.network.preprocess,
    )


def single_view(run: Run) -> Evaluator:
    """Return the evaluator of a run with the single view that a prediction uses."""
    return make_evaluator(run, (run.network.view,), mirror=False)


def provenance(run: Run, command: str) -> dict:
    """Return the provenance of results that have the matrix precision of a run."""
    with precision.of_products(settings_of(run).device.matmul_precision):
        return records.provenance(command)


def evaluate(
    run: Run,
    split: str,
    evaluator: Evaluator | None = None,
    compute: Compute | None = None,
) -> Evaluation:
    """Evaluate a split of a run's images.

    Args:
      run: run from `load_run`.
      split: name of a split of the run's images.
      evaluator: evaluator that computes the logits. By default, the evaluator uses the
        run's test-time views. The run directory keeps the default logits, so they are
        computed only once.
      compute: jitted function of (variables, batch) that returns logits; the function
        of the evaluator by default.

    Raises:
      ValueError: if the run's images have no such split, or if the run or its images
        differ among the processes.
      FolderInUseError: if logits are computed for the run directory, and another
        process is writing to it.
    """
    processes.check_shared(run.workdir)
    with precision.of_products(settings_of(run).device.matmul_precision):
        return _evaluate(run, split, evaluator, compute)


def _evaluate(
    run: Run, split: str, evaluator: Evaluator | None, compute: Compute | None
) -> Evaluation:
    dataset = images.of_run(run)
    origin = _origin(run, dataset)
    processes.check_same("runs", origin)
    labels = dataset.labels(split)
    single = run.result.get("calibration", {})
    if evaluator is None and compute is None:
        logits = _kept_logits(run, dataset, origin, split, averaged=True)
        fitted = run.result.get("test_time_calibration", single)
    else:
        evaluator = evaluator or make_evaluator(run)
        rows = evaluator.stream(
            compute or evaluator.compute_logits,
            run.network.variables,
            dataset.reader,
            dataset.indices(split),
            split,
        )
        logits = np.concatenate(list(rows))
        fitted = single
    temperature = fitted.get("temperature", 1.0)
    return Evaluation(
        split, metrics.compute(logits, labels), logits, labels, temperature
    )


def _origin(run: Run, dataset: Dataset) -> str:
    """Return what logits are computed from: config, images, variables, their step."""
    return (
        f"config {settings_of(run).config_hash}, {dataset.content_hash}, "
        f"step {run.step}, variables {records.variables_hash(run.network.variables)}"
    )


def _kept_logits(
    run: Run, dataset: Dataset, origin: str, split: str, averaged: bool
) -> Float[np.ndarray, "n c"]:
    """Return the logits of a split, from the run directory if it has them.

    The file records the `_origin` of its logits. Logits of another origin are computed
    again. An interrupted computation continues.
    """
    settings = settings_of(run)
    averaged = averaged and settings.averages_views
    suffix = "_test_time" if averaged else ""
    path = run.workdir / f"logits_{split}{suffix}.npz"
    indices = dataset.indices(split)

    def compute(first: int) -> Iterator[Float[np.ndarray, "b c"]]:
        evaluator = make_evaluator(run) if averaged else single_view(run)
        return evaluator.stream(
            evaluator.compute_logits,
            run.network.variables,
            dataset.reader,
            indices,
            split,
            first,
        )

    return kept.logits(path, origin, len(indices), compute)


def final(
    run: Run, dataset: Dataset, splits: Sequence[str]
) -> tuple[float, dict[str, dict]]:
    """Evaluate a trained run for its result, and calibrate it.

    Args:
      run: run with its best variables.
      dataset: images of the run.
      splits: names of the splits to evaluate; splits that the images do not have are
        left out.

    Returns:
      The seconds that the evaluation took, and its entries of `result.json`. The
      entries are the metrics by split, and `calibration` for the single view of a
      prediction. If the test-time views differ from this view, there is also
      `test_time_calibration`.
    """
    started = time.monotonic()
    content: dict[str, dict] = {"calibration": UNCALIBRATED}
    origin = _origin(run, dataset)
    for split in splits:
        if split in dataset.source.splits:
            logits = _kept_logits(run, dataset, origin, split, averaged=True)
            content[split] = metrics.compute(logits, dataset.labels(split))
    if "validation" in content:
        content["calibration"] = _calibrate(run, dataset, origin, averaged=False)
        if settings_of(run).averages_views:
            averaged = _calibrate(run, dataset, origin, averaged=True)
            content["test_time_calibration"] = averaged
    return time.monotonic() - started, content


def _calibrate(run: Run, dataset: Dataset, origin: str, averaged: bool) -> dict:
    """Fit a temperature on the validation split, and return its calibration errors."""
    logits = _kept_logits(run, dataset, origin, "validation", averaged)
    labels = dataset.labels("validation")
    temperature = calibration.fit_temperature(logits, labels)
    return {
        "fitted_on": "validation",
        **calibration.summary(logits, labels, temperature),
    }


def write(
    folder: str | os.PathLike, evaluation: Evaluation, class_names: Sequence[str]
) -> dict:
    """Write metrics.json, per_class.csv, confusion_matrix.csv, and two plots.

    Only the first of several processes writes.

    Returns:
      The content of metrics.json.

    Raises:
      FolderInUseError: if another process is writing to the folder.
    """
    folder = pathlib.Path(folder).expanduser()
    with records.lock(folder):
        return _write(folder, evaluation, class_names)


def _write(
    folder: pathlib.Path, evaluation: Evaluation, class_names: Sequence[str]
) -> dict:
    logits, labels = evaluation.logits, evaluation.labels
    content = evaluation.metrics | {
        "calibration": calibration.summary(logits, labels, evaluation.temperature)
    }
    if not processes.is_main():
        return content
    records.write_json(folder / "metrics.json", content)
    confusion = metrics.confusion_of_logits(logits, labels, len(class_names))
    rows = metrics.per_class(confusion, class_names)
    _write_csv(folder / "per_class.csv", rows[0], (row.values() for row in rows))
    _write_csv(
        folder / "confusion_matrix.csv",
        ["true \\ predicted", *class_names],
        ([name, *row] for name, row in zip(class_names, confusion, strict=True)),
    )
    plots.write_confusion_matrix(
        folder / "confusion_matrix.png", confusion, class_names
    )
    reliability = {
        value: calibration.reliability(logits, labels, value)
        for value in dict.fromkeys((1.0, evaluation.temperature))
    }
    plots.write_reliability(folder / "reliability.png", reliability)
    return content


def _write_csv(path: pathlib.Path, header: Iterable, rows: Iterable[Iterable]) -> None:
    with (
        records.replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
