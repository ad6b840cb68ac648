"""Evaluate a run on whole splits; its logits are kept in the run directory.

    evaluation = evaluate(load_run("runs/inception_seed0"), "test")
    evaluation.metrics["top1"], evaluation.logits
    write(folder, evaluation, class_names)          # tables and plots

Two kinds of logits are kept: those averaged over the test-time views of the config, of
which the recorded result is, and those of the single view that a prediction sees. Each
kind has a temperature of its own, fitted on the validation split.
"""

import csv
import dataclasses
import os
import pathlib
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from seeflower_jax import records, sharding
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.evaluation.evaluator import Compute, Evaluator
from seeflower_jax.experiment import images
from seeflower_jax.experiment.settings import Settings, read_settings
from seeflower_jax.figures import evaluation as plots
from seeflower_jax.inference.run import Run

UNCALIBRATED = {"fitted_on": None, "temperature": 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluated split.

    Attributes:
      split: its name.
      metrics: of `metrics.evaluate`.
      logits: of the network.
      labels: of the images.
      temperature: that calibrates these logits; 1 where none was fitted.
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
      run: of `load_run`.
      views: what it sees; the test-time views of the config by default.
      mirror: whether each is also seen mirrored; as in the config by default.
    """
    settings = read_settings(run.config)
    return Evaluator(
        run.network.spec,
        settings.views if views is None else tuple(views),
        settings.batch_size,
        sharding.make_mesh(),
        settings.mirror if mirror is None else mirror,
        run.network.preprocess,
    )


def evaluate(
    run: Run,
    split: str,
    evaluator: Evaluator | None = None,
    compute: Compute | None = None,
) -> Evaluation:
    """Evaluate a split of a run's images.

    Args:
      run: of `load_run`.
      split: of its images.
      evaluator: that of the run's test-time views by default, whose logits are kept in
        the run directory and not computed again.
      compute: jitted function of (variables, batch) that gives logits in place of the
        evaluator's own.

    Raises:
      ValueError: if the run's images have no such split.
    """
    dataset = images.of_run(run)
    labels = dataset.labels(split)
    result = records.read_result(run.workdir)
    if evaluator is None and compute is None:
        logits = _kept_logits(run, dataset, split, averaged=True)
        fitted = result.get("test_time_calibration", result.get("calibration", {}))
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
        fitted = result.get("calibration", {})
    temperature = fitted.get("temperature", 1.0)
    return Evaluation(
        split, metrics.evaluate(logits, labels), logits, labels, temperature
    )


def _kept_logits(
    run: Run, dataset: Dataset, split: str, averaged: bool
) -> Float[np.ndarray, "n c"]:
    """Return logits of a split, from a file of the run if it has them.

    The file says what its logits are of: the config, the images, and the step of the
    variables.
    """
    settings = read_settings(run.config)
    averaged = averaged and settings.averages_views
    suffix = "_test_time" if averaged else ""
    path = run.workdir / f"logits_{split}{suffix}.npz"
    origin = (
        f"config {settings.config_hash}, {dataset.source.fingerprint}, step {run.step}"
    )
    if path.exists():
        with np.load(path) as file:
            if file["of"] == origin:
                return file["logits"]
    evaluator = make_evaluator(run) if averaged else _single_view(run, settings)
    logits = evaluator.logits(
        run.network.variables, dataset.reader, dataset.indices(split), split
    )
    partial = path.with_name(f"partial_{path.name}")
    np.savez(partial, logits=logits, of=origin)
    os.replace(partial, path)
    return logits


def _single_view(run: Run, settings: Settings) -> Evaluator:
    return make_evaluator(run, (settings.view,), mirror=False)


def final(
    run: Run, dataset: Dataset, splits: Sequence[str]
) -> tuple[float, dict[str, dict]]:
    """Evaluate a trained run for its result, and calibrate it.

    Args:
      run: with its best variables.
      dataset: its images.
      splits: to evaluate; those that the images do not have are left out.

    Returns:
      Seconds, and what `result.json` has of it: metrics by split; `calibration` of what
      a prediction sees; `test_time_calibration` of the result's views, where these are
      others.
    """
    started = time.monotonic()
    content: dict[str, dict] = {"calibration": UNCALIBRATED}
    for split in splits:
        if split in dataset.source.splits:
            logits = _kept_logits(run, dataset, split, averaged=True)
            content[split] = metrics.evaluate(logits, dataset.labels(split))
    if "validation" in content:
        content["calibration"] = _calibrate(run, dataset, averaged=False)
        if read_settings(run.config).averages_views:
            content["test_time_calibration"] = _calibrate(run, dataset, averaged=True)
    return time.monotonic() - started, content


def _calibrate(run: Run, dataset: Dataset, averaged: bool) -> dict:
    """Fit a temperature on the validation split."""
    logits = _kept_logits(run, dataset, "validation", averaged)
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

    Returns:
      The content of metrics.json.
    """
    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    logits, labels = evaluation.logits, evaluation.labels
    content = evaluation.metrics | {
        "calibration": calibration.summary(logits, labels, evaluation.temperature)
    }
    records.write_json(folder / "metrics.json", content)
    confusion = metrics.confusion_matrix(logits.argmax(-1), labels, len(class_names))
    rows = metrics.per_class(confusion, class_names)
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        by_class = csv.DictWriter(file, rows[0])
        by_class.writeheader()
        by_class.writerows(rows)
    path = folder / "confusion_matrix.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["true \\ predicted", *class_names])
        table.writerows(
            [name, *row] for name, row in zip(class_names, confusion, strict=True)
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
