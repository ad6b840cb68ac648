"""Evaluate several runs as one: the mean of their calibrated probabilities.

result = combine([load_run(folder) for folder in folders], command)
result["test"]["top1"]
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from seeflower_jax import records
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.experiment.evaluate import evaluate
from seeflower_jax.inference.run import Run

_SPLITS = ("validation", "test")


def combine(runs: Sequence[Run], command: str = "") -> dict:
    """Evaluate the mean of the runs' probabilities, each run with equal weight.

    The logits of a run are averaged over its test-time views. A temperature, fitted on
    the validation split, then divides the logits. Without the temperatures, a network
    with high confidence would outweigh the other networks.

    Args:
      runs: two or more runs, of the same split of the same images.
      command: command line, for the record.

    Returns:
      The content of a `result.json`, and `members`: model, config hash, seed,
      temperature and weights of each run.

    Raises:
      ValueError: if a run is not finished, if there are fewer than two runs, or if
        their splits or classes differ.
    """
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
    members = []
    log_probabilities: dict[str, list[np.ndarray]] = {split: [] for split in _SPLITS}
    for run in runs:
        evaluations = {split: evaluate(run, split) for split in _SPLITS}
        validation = evaluations["validation"]
        temperature = calibration.fit_temperature(validation.logits, validation.labels)
        for split, evaluation in evaluations.items():
            scaled = evaluation.logits / temperature
            log_probabilities[split].append(metrics.log_softmax(scaled))
        members.append(
            {
                "model": run.network.spec.name,
                "config_hash": records.config_hash(run.config),
                "seed": run.config["seed"],
                "temperature": round(temperature, 4),
                "weights": records.read_result(run.workdir)["weights"],
            }
        )
    exact = [member["weights"]["exact"] for member in members]
    hashes = " ".join(member["config_hash"] for member in members)
    result = {
        "model": "ensemble",
        "recipe": "best",
        "split": data_splits.pop(),
        "seed": runs[0].config["seed"],
        "weights": {"exact": False if False in exact else exact[0]},
        "config_hash": hashlib.sha256(hashes.encode()).hexdigest()[:12],
        **records.provenance(command),
        "members": members,
        "seconds": {},
    }
    for split, by_run in log_probabilities.items():
        mean = np.logaddexp.reduce(by_run) - np.log(len(runs))
        result[split] = metrics.compute(mean, evaluations[split].labels)
    return result
