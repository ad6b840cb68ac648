"""Evaluates several runs as one, by the mean of their calibrated probabilities.

    python -m scripts.ensemble --workdirs=runs/inception_seed0,runs/vgg16_seed0

The runs are of the same split. Logits that evaluations of them kept are not computed
again. --results=results records the figures beside those of single runs.
"""

import pathlib

from absl import flags

from scripts import console
from seeflower_jax import ensemble, experiment, records, reproduction
from seeflower_jax.report import results

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Run directories.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the runs found it."
)
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")


def main(_) -> None:
    runs = [experiment.load_run(path, _DATA_DIR.value) for path in _WORKDIRS.value]
    result = ensemble.combine(runs, records.typed_command())
    lines = [results.accuracies(result)]
    if _RESULTS.value:
        name = f"{reproduction.result_name(result)}.json"
        records.write_json(pathlib.Path(_RESULTS.value) / name, result)
        lines.append(f"{_RESULTS.value}/{name}")
    console.show(result, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)
