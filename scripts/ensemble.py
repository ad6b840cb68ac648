r"""Evaluate several runs as one: the mean of their calibrated probabilities.

    python -m scripts.ensemble --workdirs=runs/inception_seed0,runs/vgg16_seed0
    python -m scripts.ensemble --joint_head \
        --workdirs=runs/inception_linear_seed0,runs/vgg16_linear_seed0

All runs must have the same split. Logits in the run directories are not computed again.
--joint_head solves one linear head on the features of all runs side by side instead.
--notest leaves out the test split. --results=results records the result in that folder.
--teacher=FILE, with --joint_head, writes the logits of the training images for
--config.distillation.logits. A head that was solved without an image predicts this
image.
"""

import logging
import pathlib

from absl import app, flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.evaluation.metrics import format_table
from seeflower_jax.experiment import ensemble
from seeflower_jax.inference.run import load_run
from seeflower_jax.studies import record

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Run directories.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images, if it has moved since the training."
)
_JOINT_HEAD = flags.DEFINE_bool(
    "joint_head", False, "Solve one linear head on the features of all runs."
)
_TEST = flags.DEFINE_bool("test", True, "Evaluate the test split too.")
_TEACHER = flags.DEFINE_string(
    "teacher", None, "File for the logits of the training images."
)
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")


def _check_workdirs() -> None:
    paths = [pathlib.Path(path).expanduser().resolve() for path in _WORKDIRS.value]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise app.UsageError(f"--workdirs has {twice[0]} twice; give each run once")


def main(_) -> None:
    if _RESULTS.value and not _TEST.value:
        raise app.UsageError("--results records the test split too; omit --notest")
    if _TEACHER.value and not _JOINT_HEAD.value:
        raise app.UsageError("--teacher needs --joint_head")
    _check_workdirs()
    runs = [load_run(path, _DATA_DIR.value) for path in _WORKDIRS.value]
    splits = ("validation", "test") if _TEST.value else ("validation",)
    given = runs, records.typed_command(), splits
    method = ("joint_head",) if _JOINT_HEAD.value else ()
    if _RESULTS.value:  # check it before the long computation
        with records.lock(_RESULTS.value):
            record.path_of(ensemble.describe(runs, "", *method), _RESULTS.value)
    if _JOINT_HEAD.value:
        result = ensemble.joint_head(*given, _TEACHER.value)
    else:
        result = ensemble.mean_probabilities(*given)
    console.show(result, format_table(result))
    if _RESULTS.value:
        logging.info("%s has the result", record.keep(result, _RESULTS.value))


if __name__ == "__main__":
    console.run(main)
