"""Several runs as one: the mean of their calibrated probabilities.

    result = combine([experiment.load_run(w) for w in workdirs], command)
    result["test"]["top1"]

This module connects the rooms, as `experiment` does for training.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from seeflower_jax import experiment, records
from seeflower_jax.evaluation import calibration, metrics


def combine(runs: Sequence[experiment.Run], command: str = "") -> dict:
    """Evaluates the mean of the runs' probabilities, each run with equal weight.

    A run's probabilities are those of its temperature, which is fitted on validation
    here, so that no network outweighs others by its confidence alone.

    Args:
      runs: two or more, of the same split of the same pictures.
      command: what was typed, for the record.

    Returns:
      As `result.json` of a run has it, with `members`, their names, hashes and
      temperatures.

    Raises:
      ValueError: for fewer than two runs, and for runs of different splits.
    """
    if len(runs) < 2:
        raise ValueError("an ensemble takes two runs or more")
    splits = {run.config.data.split for run in runs}
    if len(splits) > 1 or len({run.class_names for run in runs}) > 1:
        raise ValueError(
            f"these runs are not of the same split and classes: {sorted(splits)}; an "
            "ensemble would have seen some of its test pictures in training"
        )
    members, found = [], {"validation": [], "test": []}
    for run in runs:
        seen = {split: experiment.evaluate(run, split)[1:] for split in found}
        temperature = calibration.fit_temperature(*seen["validation"])
        for split, (logits, _) in seen.items():
            found[split].append(metrics.log_softmax(logits / temperature))
        members.append(
            {
                "model": run.spec.name,
                "config_hash": records.config_hash(run.config),
                "seed": run.config.seed,
                "temperature": round(temperature, 4),
                "weights": records.read_result(run.workdir)["weights"],
            }
        )
    exact = [member["weights"]["exact"] for member in members]
    hashes = " ".join(member["config_hash"] for member in members)
    result = {
        "model": "ensemble",
        "recipe": "best",
        "split": splits.pop(),
        "seed": runs[0].config.seed,
        "weights": {"exact": False if False in exact else exact[0]},
        "config_hash": hashlib.sha256(hashes.encode()).hexdigest()[:12],
        **records.provenance(command),
        "members": members,
        "seconds": {},
    }
    for split, log_probabilities in found.items():
        mean = np.logaddexp.reduce(log_probabilities) - np.log(len(runs))
        result[split] = metrics.evaluate(mean, seen[split][1])
    return result
