"""Evaluate several runs as one.

result = mean_probabilities([load_run(folder) for folder in folders], command)
result = joint_head([load_run(folder) for folder in folders], command)
result["test"]["top1"]
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from seeflower_jax import records, sharding
from seeflower_jax.data.balance import NONE
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import images
from seeflower_jax.experiment.evaluate import evaluate
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.inference.run import Run
from seeflower_jax.training import ridge

_SPLITS = ("validation", "test")


def mean_probabilities(
    runs: Sequence[Run], command: str = "", splits: Sequence[str] = _SPLITS
) -> dict:
    """Evaluate the mean of the runs' probabilities, each run with equal weight.

    The logits of a run are averaged over its test-time views. A temperature, fitted on
    the validation split, then divides the logits. Without the temperatures, a network
    with high confidence would outweigh the other networks.

    Args:
      runs: two or more runs, of the same split of the same images.
      command: command line, for the record.
      splits: the splits to evaluate.

    Returns:
      The content of a `result.json`, and `members`: model, config hash, seed, recipe,
      temperature and weights of each run.

    Raises:
      ValueError: if a run is not finished, if there are fewer than two runs, or if
        their splits or classes differ.
    """
    _check(runs)
    result = _result(runs, "best", command)
    for run, member in zip(runs, result["members"], strict=True):
        validation = evaluate(run, "validation")
        temperature = calibration.fit_temperature(validation.logits, validation.labels)
        member["temperature"] = round(temperature, 4)
    for split in splits:
        log_probabilities = []
        for run, member in zip(runs, result["members"], strict=True):
            evaluation = evaluate(run, split)
            scaled = evaluation.logits / member["temperature"]
            log_probabilities.append(metrics.log_softmax(scaled))
        mean = np.logaddexp.reduce(log_probabilities) - np.log(len(runs))
        result[split] = metrics.compute(mean, evaluation.labels)
    return result


def joint_head(
    runs: Sequence[Run], command: str = "", splits: Sequence[str] = _SPLITS
) -> dict:
    """Solve one linear head on the features of all runs, and evaluate it.

    The head is a ridge regression, see `training.ridge`. The features of each run,
    standardised, have the same weight altogether. A run's features are the input of its
    head, of the single view that a prediction uses.

    Args:
      runs, command, splits: as for `mean_probabilities`.

    Returns:
      The content of a `result.json`, and `members`. `loss` is of calibrated logits.

    Raises:
      ValueError: as `mean_probabilities`.
    """
    _check(runs)
    dataset = images.of_run(runs[0])
    fit = ridge.solve_side_by_side(
        [np.concatenate(list(_features(run, runs[0], "train"))) for run in runs],
        dataset.labels("train"),
        len(runs[0].network.class_names),
        balanced=settings_of(runs[0]).data.balance != NONE,
    )
    result = _result(runs, "joint_head", command)
    temperature = 1.0
    for split in ("validation", *(s for s in splits if s != "validation")):
        batches = zip(*(_features(run, runs[0], split) for run in runs), strict=True)
        logits = np.concatenate([fit(np.concatenate(parts, 1)) for parts in batches])
        labels = dataset.labels(split)
        if split == "validation":
            temperature = calibration.fit_temperature(logits, labels)
        result[split] = metrics.compute(logits / temperature, labels)
    return result | {"strength": fit.strength, "temperature": round(temperature, 4)}


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        if "weights" not in records.read_result(run.workdir):
            raise ValueError(
                f"{run.workdir} is not finished: it has no complete result.json; start "
                "its training command again"
            )
    if len(runs) < 2:
        raise ValueError(f"an ensemble takes two runs or more, got {len(runs)}")
    data_splits = {run.config["data"]["split"] for run in runs}
    if len(data_splits) > 1 or len({run.network.class_names for run in runs}) > 1:
        raise ValueError(
            f"these runs are not of the same split and classes: {sorted(data_splits)}; "
            "an ensemble would have seen some of its test images in training"
        )


def _result(runs: Sequence[Run], recipe: str, command: str) -> dict:
    """Return the content of `result.json`, without metrics."""
    members = [_describe(run) for run in runs]
    exact = [member["weights"]["exact"] for member in members]
    hashes = " ".join(member["config_hash"] for member in members)
    return {
        "model": "ensemble",
        "recipe": recipe,
        "split": runs[0].config["data"]["split"],
        "seed": runs[0].config["seed"],
        "weights": {"exact": False if False in exact else exact[0]},
        "config_hash": hashlib.sha256(hashes.encode()).hexdigest()[:12],
        **records.provenance(command),
        "members": members,
        "seconds": {},
    }


def _describe(run: Run) -> Mapping:
    return {
        "model": run.network.spec.name,
        "recipe": run.config["recipe"],
        "config_hash": records.config_hash(run.config),
        "seed": run.config["seed"],
        "weights": records.read_result(run.workdir)["weights"],
    }


def _features(run: Run, first: Run, split: str) -> Iterator[Float[np.ndarray, "b d"]]:
    """Yield the features of a split, in batches of the size that the first run has."""
    dataset, settings = images.of_run(run), settings_of(run)
    evaluator = Evaluator(
        run.network.spec,
        (settings.view,),
        settings_of(first).batch_size,
        sharding.make_mesh(),
        preprocess=run.network.preprocess,
    )
    indices = dataset.indices(split)
    name = f"{split}, {run.workdir.name}"
    batches = evaluator.features(run.network.variables, dataset.reader, indices, name)
    return (features[:, 0] for features in batches)
