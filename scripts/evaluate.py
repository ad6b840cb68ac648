r"""Evaluate the best variables of a run on a whole split.

    python -m scripts.evaluate --workdir=runs/inception_seed0 --split=test
    python -m scripts.evaluate --workdir=runs/inception_seed0 --split=validation \
        --views=299,384:0.875 --nohflip

The script prints the metrics and writes metrics.json, per_class.csv,
confusion_matrix.csv, confusion_matrix.png and reliability.png to --out, by default
evaluation_<split>/ in the run directory.

--views and --hflip replace the test-time views of the config. The name of the folder
then ends in _views. --crop averages the logits of the whole view and of the part that
Grad-CAM highlights. The name then ends in _crop. --ablation=NAME also records the
validation metrics in ablation.json of --results.
"""

import dataclasses

from absl import app, flags

from scripts import console, process_flags
from seeflower_jax import records
from seeflower_jax.data.view import View
from seeflower_jax.evaluation import calibration
from seeflower_jax.evaluation.metrics import format_table
from seeflower_jax.experiment import evaluate
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.explain import closer
from seeflower_jax.inference.run import Run, load_run
from seeflower_jax.sharding import processes
from seeflower_jax.studies import ablation

flags.adopt_module_key_flags(process_flags)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "The split to evaluate."
)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "The new folder of the images.")
_CROP = flags.DEFINE_bool("crop", False, "Also crop to the part that Grad-CAM shows.")
_VIEWS = flags.DEFINE_list("views", [], "Sizes, or size:crop with a share of the side.")
_HFLIP = flags.DEFINE_bool("hflip", None, "Also average each mirror image.")
_ABLATION = flags.DEFINE_string("ablation", None, "The name of the row to record.")
_RESULTS = flags.DEFINE_string(
    "results", None, "The folder of recorded results, by default results."
)


def _views(default: View) -> tuple[View, ...]:
    """Return the views of --views; `default` sets all but size and crop."""
    try:
        return tuple(
            dataclasses.replace(default, size=int(size), crop=float(crop or 1))
            for size, _, crop in (text.partition(":") for text in _VIEWS.value)
        )
    except ValueError as error:
        message = f"--views={','.join(_VIEWS.value)}: {error}"
        raise app.UsageError(f"{message}; expected size or size:crop") from None


def _plan(run: Run) -> tuple:
    """Return the suffix of the folder, and the evaluator and function of the flags."""
    settings = settings_of(run)
    if _CROP.value:
        look = closer.make_closer_look(run.network)
        return "_crop", evaluate.single_view(run), look
    views = _views(settings.view) or settings.views
    mirror = settings.mirror if _HFLIP.value is None else _HFLIP.value
    if (views, mirror) != (settings.views, settings.mirror):
        return "_views", evaluate.make_evaluator(run, views, mirror), None
    return "", None, None


def main(_) -> None:
    if _ABLATION.value and _SPLIT.value != "validation":
        raise app.UsageError("--ablation needs --split=validation")
    if _RESULTS.value is not None and not _ABLATION.value:
        raise app.UsageError("--results needs --ablation=NAME, the row to record")
    if _CROP.value and (_VIEWS.value or _HFLIP.value is not None):
        raise app.UsageError("--crop excludes --views and --hflip")
    process_flags.connect()
    run = load_run(_WORKDIR.value, _DATA_DIR.value)
    if _ABLATION.value:
        ablation.check(run, _ABLATION.value)
    suffix, *how = _plan(run)
    out = _OUT.value or run.workdir / f"evaluation_{_SPLIT.value}{suffix}"
    with records.lock(out):  # before the long computation
        evaluation = evaluate.evaluate(run, _SPLIT.value, *how)
        metrics = evaluate.write(out, evaluation, run.network.class_names)
    if _ABLATION.value and processes.is_main():
        results = _RESULTS.value or "results"
        ablation.record(run, _ABLATION.value, metrics, results, records.typed_command())
    errors = calibration.describe(metrics["calibration"])
    table = format_table({_SPLIT.value: metrics})
    console.show(metrics, f"{table}\n{errors}\n{out}")


if __name__ == "__main__":
    console.run(main)
