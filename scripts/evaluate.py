"""Evaluates the best checkpoint of a run on a whole split.

    python -m scripts.evaluate --workdir=runs/inception_seed0 --split=test

Prints the metrics and writes, to evaluation_<split>/ in the run directory or to --out,
metrics.json, per_class.csv, confusion_matrix.csv, confusion_matrix.png and
reliability.png, the accuracy by the probability that the network gave, without and with
the temperature that was fitted on validation.
--crop looks twice: at the picture, and closer at the part that its Grad-CAM points at;
the files then go to evaluation_<split>_crop/.
"""

from absl import flags

from scripts import console
from seeflower_jax import experiment, explain
from seeflower_jax.evaluation import calibration
from seeflower_jax.report import evaluation, results

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Which pictures."
)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)
_CROP = flags.DEFINE_bool("crop", False, "Also sees the part that Grad-CAM shows.")


def main(_) -> None:
    run = experiment.load_run(_WORKDIR.value, _DATA_DIR.value)
    predictor = explain.make_crop_predictor(run) if _CROP.value else None
    metrics, logits, labels = experiment.evaluate(run, _SPLIT.value, predictor)
    name = f"evaluation_{_SPLIT.value}{'_crop' if _CROP.value else ''}"
    out = _OUT.value or run.workdir / name
    metrics["calibration"] = calibration.summary(logits, labels, run.temperature)
    evaluation.write(out, metrics, logits, labels, run.class_names, run.temperature)
    errors = "calibration error {ece_before:.4f}; {ece_after:.4f} with the temperature"
    lines = [
        results.accuracies({_SPLIT.value: metrics}),
        errors.format(**metrics["calibration"]) + f" {run.temperature:.2f}",
        str(out),
    ]
    console.show(metrics, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)
