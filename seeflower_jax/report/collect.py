"""The report of a run directory, from what the run recorded and its network sees.

    path = write("runs/inception_seed0")     # report.html there

This module connects the rooms, as `experiment` does for training. The logits of the
splits are taken from the run directory; only those that are missing are computed. Of an
unfinished run, the test split is left alone.
"""

import itertools
import json
import logging
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from seeflower_jax import experiment, explain, maximisation, records
from seeflower_jax.data.cache import center_view
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.report import html, results

_EXAMPLES, _MAXIMISED, _BATCH_SIZE = 12, 24, 8
_METHODS = ("grad_cam", "saliency")
_TITLES = results.NAMES | {
    "baseline": "The baseline network",
    "oxford_flowers102": "Oxford 102 Flowers",
}


def is_current(workdir: str | os.PathLike) -> bool:
    """Whether a finished run has a report that is not older than its result."""
    workdir = pathlib.Path(workdir).expanduser()
    report, result = workdir / "report.html", workdir / "result.json"
    return report.exists() and report.stat().st_mtime >= result.stat().st_mtime


def write(workdir: str | os.PathLike, data_dir: str | None = None) -> pathlib.Path:
    """Writes the report of a run, finished or not, and returns its path.

    Args:
      workdir: the run directory.
      data_dir: where the data is, if not where the run found it.

    Raises:
      FileNotFoundError: if it is no run directory.
    """
    workdir = pathlib.Path(workdir).expanduser()
    config = experiment.load_config(workdir)
    log = workdir / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    given = {
        "title": _title(config),
        "config": _without_home(config.to_dict()),
        "result": records.read_result(workdir),
        "records": [json.loads(line) for line in lines],
    }
    try:
        run = experiment.load_run(workdir, data_dir)
    except experiment.NoCheckpointError:
        logging.warning("%s has no checkpoint yet: nothing is evaluated", workdir)
    else:
        seen = "test" in given["result"]  # not after --notest, nor before the end
        wanted = ("validation", "test") if seen else ("validation",)
        given |= _evaluated(run, wanted)
    path = workdir / "report.html"
    html.write(path, html.Report(**given))
    return path


def _title(config) -> str:
    data = pathlib.Path(config.data.dir).name or config.data.source
    data = _TITLES.get(config.data.source, data)
    return f"{_TITLES.get(config.model.name, config.model.name)} on {data}"


def _without_home(config: dict) -> dict:
    """A config whose paths do not tell where home is."""
    return json.loads(json.dumps(config).replace(str(pathlib.Path.home()), "~"))


def _evaluated(run: experiment.Run, wanted: Sequence[str]) -> dict:
    """What a report has of a network: logits, examples, maximised pictures."""
    there = experiment.Pictures.open(run.config, run.workdir).source.splits
    maximised = maximisation.read_pictures(run.workdir / "activation_max")
    splits = [
        html.Split(name, *experiment.evaluate(run, name)[1:])
        for name in wanted
        if name in there
    ]
    found = {
        "class_names": run.class_names,
        "splits": splits,
        "maximised": [
            (run.class_names[label], picture)
            for label, picture in itertools.islice(maximised, _MAXIMISED)
        ],
    }
    if splits and splits[0].name == "validation":
        found["temperature"] = calibration.fit_temperature(
            splits[0].logits, splits[0].labels
        )
    if splits:
        found |= _examples(run, splits[-1], found.get("temperature", 1.0))
    return found


def _examples(run: experiment.Run, split: html.Split, temperature: float) -> dict:
    """The most confident mistakes, and right predictions of many classes."""
    probabilities = np.exp(metrics.log_softmax(split.logits / temperature))
    predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
    wrong = np.flatnonzero(predicted != split.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:_EXAMPLES]
    right = _spread(np.flatnonzero(predicted == split.labels), split.labels)
    pictures = explain.split_pictures(run, split.name)
    training = explain.split_pictures(run, "train")

    def training_picture(label):
        if label not in training.labels:
            return None
        image = Image.fromarray(training.read(training.labels.index(label)))
        return center_view(image, run.size, run.crop, run.keep_aspect)

    examples = [
        html.Example(
            image,
            maps,
            int(split.labels[i]),
            int(predicted[i]),
            float(confidence[i]),
            training_picture(predicted[i]) if predicted[i] != split.labels[i] else None,
        )
        for i, image, maps in _explained(run, pictures, [*wrong, *right], predicted)
    ]
    return {"mistakes": examples[: len(wrong)], "gallery": examples[len(wrong) :]}


def _explained(run, pictures, positions, targets):
    """Yields (position, image, {method: map}) of some pictures."""
    batch_size = -(-_BATCH_SIZE // jax.device_count()) * jax.device_count()
    explainer = explain.make_explainer(run, _METHODS, None, batch_size)
    for first in range(0, len(positions), batch_size):
        part = positions[first : first + batch_size]
        pixels = [pictures.read(i) for i in part]
        images, _, _, maps = explainer(part, pixels, targets[part])
        for row, position in enumerate(part):
            yield position, images[row], {name: maps[name][row] for name in _METHODS}


def _spread(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Some of the pictures `right`, of classes spread over the list."""
    right = right[np.argsort(labels[right], kind="stable")]
    own = labels[right]
    earlier = np.arange(len(own)) - np.searchsorted(own, own)  # of the same class
    # One of each class, where these are too few the next of each.
    right = right[np.argsort(earlier, kind="stable")]
    right = right[: max(_EXAMPLES, len(np.unique(own)))]
    count = min(_EXAMPLES, len(right))
    return right[np.linspace(0, len(right) - 1, count).round().astype(int)]
