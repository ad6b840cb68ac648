"""Evaluate several runs as one.

result = mean_probabilities([load_run(folder) for folder in folders], command)
result = joint_head([load_run(folder) for folder in folders], command)
result["test"]["top1"]
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from seeflower_jax import records
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.experiment import images, precision, teacher
from seeflower_jax.experiment.evaluate import evaluate, provenance, single_view
from seeflower_jax.experiment.settings import pretraining_of, settings_of
from seeflower_jax.experiment.workdir import read_images
from seeflower_jax.inference.run import Run, check_finished
from seeflower_jax.training import ridge
from seeflower_jax.training.stages import beyond_head

_FITTED = "validation"  # the split that temperatures are fitted on
_PAPER = {"inception_v3", "vgg16", "vgg19"}  # the networks of the paper
_SPLITS = (_FITTED, "test")


def mean_probabilities(
    runs: Sequence[Run], command: str = "", splits: Sequence[str] = _SPLITS
) -> dict:
    """Evaluate the mean probabilities of several runs, which have equal weights.

    The logits of a run are averaged over its test-time views. A temperature, fitted on
    the validation split, then divides the logits. Without the temperatures, a network
    with high confidence would outweigh the other networks.

    Args:
      runs: two or more runs on the same split of the same images.
      command: command line, for the record.
      splits: the splits to evaluate.

    Returns:
      The content of a `result.json`, with the further entry `members`. It lists the
      model, config hash, seed, recipe, temperature, weights and matrix precision of
      each run.

    Raises:
      ValueError: if a run is not finished, if there are fewer than two runs, or if
        their splits, classes or images differ.
    """
    result = describe(runs, command)
    log_probabilities: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    for run, member in zip(runs, result["members"], strict=True):
        evaluations = {
            split: evaluate(run, split) for split in dict.fromkeys((_FITTED, *splits))
        }
        fitted = evaluations[_FITTED]
        temperature = calibration.fit_temperature(fitted.logits, fitted.labels)
        member["temperature"] = round(temperature, 4)
        with precision.of_products(settings_of(run).device.matmul_precision):
            member["matmul_precision"] = records.matmul_precision()
        for split in splits:
            scaled = evaluations[split].logits / temperature
            log_probabilities[split].append(metrics.log_softmax(scaled))
    for split, by_run in log_probabilities.items():
        mean = np.logaddexp.reduce(by_run) - np.log(len(runs))
        result[split] = metrics.compute(mean, evaluations[split].labels)
    precisions = (member["matmul_precision"] for member in result["members"])
    return result | {"matmul_precision": ", ".join(dict.fromkeys(precisions))}


def joint_head(
    runs: Sequence[Run],
    command: str = "",
    splits: Sequence[str] = _SPLITS,
    teacher_path: str | os.PathLike | None = None,
) -> dict:
    """Solve one linear head on the features of all runs, and evaluate it.

    The head is a ridge regression, see `training.ridge`. It reads the standardised
    features of all runs, and each run has the same total weight. The features of a run
    are the inputs of its head for the single view that a prediction uses. Matrix
    products have the precision of the first run.

    Args:
      runs, command, splits: as for `mean_probabilities`.
      teacher_path: file that gets logits of the training images. A head that was solved
        without an image predicts this image, see `teacher`.

    Returns:
      The content of a `result.json`, and `members`. `loss` is the loss of calibrated
      logits.

    Raises:
      ValueError: as for `mean_probabilities`; also if there is a `teacher_path` and a
        run trained its network on these images.
      OSError: if `teacher_path` cannot be written.
    """
    result = describe(runs, command, "joint_head")
    if teacher_path:
        _check_file(pathlib.Path(teacher_path).expanduser())
        _check_teacher(runs)
    dataset, settings = images.of_run(runs[0]), settings_of(runs[0])
    # The long computation starts only if all splits exist.
    evaluated = dict.fromkeys((_FITTED, *splits))
    labels = {split: dataset.labels(split) for split in ("train", *evaluated)}
    streams = [_make_stream(run, settings.batch_size) for run in runs]
    context = functools.partial(precision.of_products, settings.device.matmul_precision)
    with context():
        fit = ridge.solve_side_by_side(
            [np.concatenate(list(features("train"))) for features in streams],
            labels["train"],
            len(runs[0].network.class_names),
            settings.balanced,
        )
    if teacher_path:
        teacher.write(teacher_path, dataset, fit.logits)
    logits = {}
    for split in evaluated:
        batches = zip(*(features(split) for features in streams), strict=True)
        with context():
            rows = [fit(np.concatenate(parts, 1)) for parts in batches]
        logits[split] = np.concatenate(rows)
    temperature = calibration.fit_temperature(logits[_FITTED], labels[_FITTED])
    for split in splits:
        scaled = logits[split] / temperature
        result[split] = metrics.compute(scaled, labels[split])
    return result | {"strength": fit.strength, "temperature": round(temperature, 4)}


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        check_finished(run)
    if len(runs) < 2:
        raise ValueError(f"an ensemble needs two or more runs, got {len(runs)}")
    data_splits = {run.config["data"]["split"] for run in runs}
    if len(data_splits) > 1 or len({run.network.class_names for run in runs}) > 1:
        raise ValueError(
            f"these runs are not of the same split and classes: {sorted(data_splits)}; "
            "give runs of one split, so that no run was trained on test images"
        )
    descriptions = {run.workdir: read_images(run.workdir)[0] for run in runs}
    (first, expected), *others = descriptions.items()
    for workdir, description in others:
        if description != expected:
            raise ValueError(
                f"{first} and {workdir} were trained on different images "
                f"({expected} and {description}); give runs on the same images"
            )


def _check_file(path: pathlib.Path) -> None:
    """Check that a file can be written, before a long computation."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the path of a file")
    with records.lock(path.parent):  # says why the folder cannot be written to
        pass


def _check_teacher(runs: Sequence[Run]) -> None:
    """Raise an error if a network has learned the labels of the training images.

    The features of these images then reveal their labels, even to a head that was
    solved without the images. The pretraining may have learned them, too.
    """
    for run in runs:
        settings = settings_of(run)
        stages, before = settings.stages, pretraining_of(settings)
        if before:
            folder = run.workdir / records.PRETRAINING
            source = images.open_source(images.located(before, folder), folder)
            learned = images.identities(source, "train")
            if learned & images.identities(images.of_run(run).source, "train"):
                stages += before.stages
        if names := beyond_head(stages, run.network.spec.head):
            raise ValueError(
                f"{run.workdir} trained its network on these images in stage "
                f"{names[0]!r}, so its features reveal their labels; a teacher needs "
                "runs that train only the head, such as runs of the recipe linear"
            )


def describe(runs: Sequence[Run], command: str, *method: str) -> dict:
    """Return the content of `result.json`, without metrics; compute nothing.

    The recipe has the names of the runs' recipes, and the method if it is not the mean.
    Before them come the names of the networks, unless these are all that the paper has.
    The matrix precision is the precision of the first run.

    Args:
      runs, command: as for `mean_probabilities`.
      *method: 'joint_head' for `joint_head`, nothing for `mean_probabilities`.

    Raises:
      ValueError: as for `mean_probabilities`.
    """
    _check(runs)
    members = [_describe_run(run) for run in runs]
    names = [member["model"] for member in members]
    if set(names) == _PAPER:
        names = []
    names += [member["recipe"] for member in members]
    exact = [member["weights"]["exact"] for member in members]
    dtypes = [run.config["model"].get("dtype", "float32") for run in runs]
    hashes = " ".join(member["config_hash"] for member in members)
    return {
        "model": "ensemble",
        "recipe": "_".join([*dict.fromkeys(names), *method]),
        "dtype": "_".join(dict.fromkeys(dtypes)),
        "split": runs[0].config["data"]["split"],
        "seed": runs[0].config["seed"],
        "weights": {"exact": False if False in exact else exact[0]},
        "config_hash": hashlib.sha256(hashes.encode()).hexdigest()[:12],
        **provenance(runs[0], command),
        "members": members,
        "seconds": {},
    }


def _describe_run(run: Run) -> Mapping:
    return {
        "model": run.network.spec.name,
        "recipe": run.config["recipe"],
        "config_hash": records.config_hash(run.config),
        "seed": run.config["seed"],
        "weights": run.result["weights"],
    }


def _make_stream(
    run: Run, batch_size: int
) -> Callable[[str], Iterator[Float[np.ndarray, "b d"]]]:
    """Return a function from a split to its features, in batches."""
    dataset = images.of_run(run)
    evaluator = dataclasses.replace(single_view(run), batch_size=batch_size)

    def stream(split: str) -> Iterator[Float[np.ndarray, "b d"]]:
        batches = evaluator.features(
            run.network.variables,
            dataset.reader,
            dataset.indices(split),
            f"{split}, {run.workdir.name}",
        )
        return (features[:, 0] for features in batches)

    return stream
