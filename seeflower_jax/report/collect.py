"""Collect the content of a run's page, and write the page.

    path = write("runs/inception_seed0")     # report.html in the run directory

The logits of the splits are read from the run directory; missing ones are computed. The
test split of an unfinished run is not evaluated.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from seeflower_jax import records
from seeflower_jax.data.images import Images
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.experiment import evaluate, images
from seeflower_jax.experiment.evaluate import Evaluation
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.explain import maximise
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.run import NoCheckpointError, Run, load_config, load_run
from seeflower_jax.report import html
from seeflower_jax.report.html import Example, Page

METHODS = ("grad_cam", "saliency")
_PAGE = "report.html"  # in the run directory
_EXAMPLES, _MAXIMISED, _BATCH_SIZE = 12, 24, 8
_TITLES = {
    "baseline": "The baseline network",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "inception_v3": "Inception-v3",
    "oxford_flowers102": "Oxford 102 Flowers",
}


def is_current(workdir: str | os.PathLike) -> bool:
    """Return whether a run directory has a complete page of its current content."""
    workdir = pathlib.Path(workdir).expanduser()
    return html.is_made_from(workdir / _PAGE, _sources(workdir))


def _sources(workdir: pathlib.Path) -> str:
    """Return 12 hex digits of the SHA-256 of the files that a page is made from."""
    digest = hashlib.sha256()
    for name in ("config.json", "result.json", records.LOG_FILE):
        path = workdir / name
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]


def write(workdir: str | os.PathLike, data_dir: str | None = None) -> pathlib.Path:
    """Write the page of a run, finished or not, and return its path.

    Args:
      workdir: the run directory.
      data_dir: where the images are, if they have moved since training.

    Raises:
      FileNotFoundError: if `workdir` is not a run directory.
      DamagedFileError: if a file of the run lacks values that the page shows.
    """
    workdir = pathlib.Path(workdir).expanduser()
    path, sources = workdir / _PAGE, _sources(workdir)
    page = _collect(workdir, data_dir)
    try:
        html.write(path, page, sources)
    except (jinja2.UndefinedError, KeyError, TypeError) as error:
        raise records.DamagedFileError(
            f"{workdir / 'result.json'} or {workdir / records.LOG_FILE} is damaged: it "
            f"lacks what the page shows ({type(error).__name__}: {error}); start the "
            "training command again, or delete the damaged file"
        ) from error
    return path


def _collect(workdir: pathlib.Path, data_dir: str | None) -> Page:
    """Return the content of the page of a run."""
    config = load_config(workdir)
    page = Page(
        title=_title(config),
        config=_without_home(config),
        result=records.read_result(workdir),
        log=records.read_logs(workdir),
    )
    try:
        run = load_run(workdir, data_dir)
    except NoCheckpointError:
        logging.warning("%s has no checkpoint yet, so no split is evaluated", workdir)
        return page
    # With --notest or an unfinished run, the test split is not evaluated.
    splits = ("validation", "test") if "test" in run.result else ("validation",)
    evaluations = _evaluate(run, splits)
    page = dataclasses.replace(
        page,
        result=run.result,
        class_names=run.network.class_names,
        evaluations=evaluations,
        averages_views=settings_of(run).averages_views,
        maximised=_maximised(run),
    )
    if not evaluations:
        return page
    mistakes, gallery = _examples(run, evaluations[-1])
    return dataclasses.replace(page, mistakes=mistakes, gallery=gallery)


def _title(config: Mapping[str, Any]) -> str:
    """Name the network and the images of a run."""
    model, data = config["model"]["name"], config["data"]
    folder = pathlib.Path(data["dir"]).name or data["source"]
    source = _TITLES.get(data["source"], folder)
    return f"{_TITLES.get(model, model)} on {source}"


def _without_home(config: Mapping[str, Any]) -> dict:
    """Return a config with ~ in place of the home folder in its paths."""
    return json.loads(records.without_home(json.dumps(config, ensure_ascii=False)))


def _evaluate(run: Run, splits: Sequence[str]) -> list[Evaluation]:
    """Evaluate the splits that the run's images have.

    All evaluations have the same temperature. It comes from the result of a finished
    run. For an unfinished run, it is fitted to the validation split.
    """
    available = images.of_run(run).source.splits
    evaluations = [evaluate.evaluate(run, name) for name in splits if name in available]
    if run.result or not evaluations:
        return evaluations
    validation = evaluations[0]
    temperature = calibration.fit_temperature(validation.logits, validation.labels)
    return [dataclasses.replace(e, temperature=temperature) for e in evaluations]


def _maximised(run: Run) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """Return (class name, image) of activation maximisation, if the run has it.

    Images of other variables, from before further training, are left out.
    """
    folder = run.workdir / "activation_max"
    path = folder / "result.json"
    if not path.exists():
        return []
    result = records.read_json(path, "run scripts.activation_max again")
    if result.get("variables") != records.variables_hash(run.network.variables):
        logging.warning(
            "the report leaves out %s, whose images are of other variables of the "
            "network; run scripts.activation_max again",
            folder,
        )
        return []
    name_by_label = dict(enumerate(run.network.class_names))
    maximised = (
        (name_by_label[label], image)
        for label, image in maximise.read_images(folder)
        if name_by_label.get(label) in result["scores"]
    )
    return list(itertools.islice(maximised, _MAXIMISED))


def _examples(run: Run, evaluation: Evaluation) -> tuple[list[Example], list[Example]]:
    """Return the most confident mistakes, and correct predictions of many classes."""
    labels = evaluation.labels
    scaled_logits = evaluation.logits / evaluation.temperature
    probabilities = np.exp(metrics.log_softmax(scaled_logits))
    predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
    mistakes = _most_confident(predicted != labels, confidence)
    correct = _spread(np.flatnonzero(predicted == labels), labels)
    dataset = images.of_run(run)
    training_images = dataset.images("train")
    positions = np.concatenate([mistakes, correct])
    logging.info("report: attribution maps of %d images", len(positions))
    examples = []
    for position, image, maps in _explain(
        run.network, dataset.images(evaluation.split), positions, predicted
    ):
        label, predicted_label = int(labels[position]), int(predicted[position])
        training_image = None
        if label != predicted_label:
            training_image = _first_of(run.network, training_images, predicted_label)
        examples.append(
            Example(
                image=image,
                maps=maps,
                label=label,
                predicted=predicted_label,
                probability=float(confidence[position]),
                training_image=training_image,
            )
        )
    return examples[: len(mistakes)], examples[len(mistakes) :]


def _most_confident(
    is_mistake: Bool[np.ndarray, " n"], confidence: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " m"]:
    """Return the positions of the most confident mistakes."""
    mistakes = np.flatnonzero(is_mistake)
    order = np.argsort(-confidence[mistakes], kind="stable")
    return mistakes[order][:_EXAMPLES]


def _spread(
    positions: Int[np.ndarray, " n"], labels: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " k"]:
    """Return some of the positions, with classes spread over the class list."""
    positions = positions[np.argsort(labels[positions], kind="stable")]
    sorted_labels = labels[positions]
    # The rank of each image within its class.
    rank = np.arange(len(positions)) - np.searchsorted(sorted_labels, sorted_labels)
    # The first image of each class comes first, then the second image of each class.
    positions = positions[np.argsort(rank, kind="stable")]
    positions = positions[: max(_EXAMPLES, len(np.unique(sorted_labels)))]
    count = min(_EXAMPLES, len(positions))
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(int)]


def _explain(
    network: Network,
    split_images: Images,
    positions: Int[np.ndarray, " k"],
    targets: Int[np.ndarray, " n"],
) -> Iterator[tuple[int, Float[np.ndarray, "s s 3"], dict[str, np.ndarray]]]:
    """Yield (position, image, maps by method) of some images of a split."""
    explainer = Explainer(network, METHODS, batch_size=_BATCH_SIZE)
    for first in range(0, len(positions), explainer.batch_size):
        part = positions[first : first + explainer.batch_size].tolist()
        pixels = [split_images.read(position) for position in part]
        explained = explainer(part, pixels, targets[part])
        for row, position in enumerate(part):
            maps = {method: explained.maps[method][row] for method in METHODS}
            yield position, explained.images[row], maps


def _first_of(
    network: Network, training_images: Images, label: int
) -> UInt8[np.ndarray, "s s 3"] | None:
    """Return the first training image of a class as the network sees it, or None."""
    if label not in training_images.labels:
        return None
    position = list(training_images.labels).index(label)
    return network.see(training_images.read(position))
