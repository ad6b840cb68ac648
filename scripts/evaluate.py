r"""Evaluates the best checkpoint of a run on a whole split.

    python -m scripts.evaluate --workdir=runs/inception_seed0 --split=test
    python -m scripts.evaluate --workdir=runs/inception_seed0 --split=validation \
        --views=299,384:0.875 --nohflip

Prints the metrics and writes, to evaluation_<split>/ in the run directory or to --out,
metrics.json, per_class.csv, confusion_matrix.csv, confusion_matrix.png and
reliability.png, the accuracy by the probability that the network gave, without and with
the temperature that was fitted on validation.
--views and --hflip look otherwise than the run's config, --crop twice: at the picture,
and closer at the part that its Grad-CAM points at; the files then go to
evaluation_<split>_views/ or evaluation_<split>_crop/. --ablation=NAME enters the
figures of validation into ablation.json in --results, under that name.
"""

from absl import app, flags

from scripts import console
from seeflower_jax import experiment, explain, records
from seeflower_jax.evaluation import calibration, predict
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
_VIEWS = flags.DEFINE_list(
    "views", [], "Sides of the picture in pixels, or side:share of the shortest side."
)
_HFLIP = flags.DEFINE_bool("hflip", None, "Whether each view is also seen mirrored.")
_ABLATION = flags.DEFINE_string("ablation", None, "Name of the row to record.")
_RESULTS = flags.DEFINE_string("results", "results", "Folder of recorded results.")


def _test_time(config):
    """The views of the run's config, as the flags change them."""
    test_time = config.test_time.copy_and_resolve_references()
    if _HFLIP.value is not None:
        test_time.hflip = _HFLIP.value
    if _VIEWS.value:
        try:
            pairs = [view.partition(":") for view in _VIEWS.value]
            test_time.views = tuple((int(a), float(b or 1.0)) for a, _, b in pairs)
        except ValueError:
            raise app.UsageError(
                f"--views={','.join(_VIEWS.value)}: expected sides in pixels, 299, or "
                "with the share that is seen of the shortest side, 299:0.875"
            ) from None
    return test_time


def main(_) -> None:
    if _ABLATION.value and _SPLIT.value != "validation":
        raise app.UsageError(
            "--ablation is of --split=validation, where choices are made"
        )
    run = experiment.load_run(_WORKDIR.value, _DATA_DIR.value)
    test_time = _test_time(run.config)
    predictor, name = None, f"evaluation_{_SPLIT.value}"
    if _CROP.value:
        if test_time != run.config.test_time:
            raise app.UsageError("give one of --crop and of --views and --hflip")
        predictor, name = explain.make_crop_predictor(run), f"{name}_crop"
    elif test_time != run.config.test_time:
        predictor = predict.make_predictor(
            run.spec, run.config.eval, run.preprocess, test_time
        )
        name = f"{name}_views"
    metrics, logits, labels = experiment.evaluate(run, _SPLIT.value, predictor)
    out = _OUT.value or run.workdir / name
    metrics["calibration"] = calibration.summary(logits, labels, run.temperature)
    evaluation.write(out, metrics, logits, labels, run.class_names, run.temperature)
    if _ABLATION.value:
        entry = {key: metrics[key] for key in ("top1", "mean_class_top1", "count")}
        entry |= {
            "config_hash": records.config_hash(run.config),
            "seed": run.config.seed,
            "trained": records.read_result(run.workdir).get("command"),
            **records.provenance(records.typed_command()),
        }
        path = f"{_RESULTS.value}/ablation.json"
        records.record(path, run.spec.name, _ABLATION.value, entry)
    errors = "calibration error {ece_before:.4f}; {ece_after:.4f} with the temperature"
    lines = [
        results.accuracies({_SPLIT.value: metrics}),
        errors.format(**metrics["calibration"]) + f" {run.temperature:.2f}",
        str(out),
    ]
    console.show(metrics, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)
