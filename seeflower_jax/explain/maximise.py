"""Compute the image that maximises the score of each class, for a run's network.

    run = load_run("runs/inception_seed0")
    result = maximise_classes(run, "activation_max", ["7", "sunflower"])
    for label, image in read_images("activation_max"):
        ...

The optimisation is in `attribution.activation_max`.
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from seeflower_jax import hints, records, sharding
from seeflower_jax.attribution import activation_max
from seeflower_jax.attribution.activation_max import Maximised, NaturalStatistics
from seeflower_jax.data.loader import Batch
from seeflower_jax.data.view import View
from seeflower_jax.evaluation.evaluator import Compute, Evaluator
from seeflower_jax.experiment.images import of_run
from seeflower_jax.experiment.network_checks import empty_endpoint
from seeflower_jax.explain.inputs import class_indices
from seeflower_jax.figures import maps as figures
from seeflower_jax.figures import text
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.predict import whole_batch_size
from seeflower_jax.inference.run import Run
from seeflower_jax.records.progress_bar import progress_bar

_NATURAL_IMAGES = 256  # training images that `Form.naturalness` compares with
_BATCH_SIZE = 32  # for images that are only classified


@dataclasses.dataclass(frozen=True)
class _Optimisation:
    """Settings of the optimisation; see the arguments of `maximise_classes`.

    Raises:
      ValueError: if the form is unknown or a number is below 1.
    """

    form: str
    size: int
    steps: int
    seeds: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.form not in activation_max.FORMS:
            known = ", ".join(activation_max.FORMS)
            raise ValueError(f"unknown form {self.form!r}: known are {known}")
        for name in ("size", "steps", "seeds", "batch_size"):
            hints.check_count(name, getattr(self, name))


@dataclasses.dataclass(frozen=True, eq=False)
class _Maximised:
    """Optimised images on the host, with their scores at each step and at the end."""

    images: Float[np.ndarray, "k size size 3"]
    curves: Float[np.ndarray, "k steps"]
    scores: Float[np.ndarray, " k"]


def maximise_classes(
    run: Run,
    out: str | os.PathLike,
    classes: Sequence[str] | None = None,
    form: str = "robust",
    *,
    size: int | None = None,
    steps: int = 256,
    seeds: int = 1,
    batch_size: int = 34,
    observer: Run | None = None,
    command: str = "",
    results: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Write an image for each class, a contact sheet, score curves and result.json.

    Args:
      run: the run with the network to maximise.
      out: the folder to write to.
      classes: names or indices of classes, without repeats. The default is all classes.
      form: key of `activation_max.FORMS`. The robust form uses statistics of training
        images.
      size: side of the images in pixels. The default is the network's input size.
      steps: number of steps of each optimisation.
      seeds: number of starts for each class; the image with the best score is kept.
      batch_size: number of classes at once, over all devices.
      observer: a run of another network with the same classes. The result counts the
        images that it classifies correctly.
      command: the command that the user typed, for the record.
      results: a folder; the counts are written to its activation_max.json. It needs an
        observer.

    Returns:
      The content of `result.json`.

    Raises:
      ValueError: if the form or a class is unknown, or a class is missing or repeated.
        Also if a number is below 1, the size is too small, `results` has no observer,
        or the observer has other classes.
      FolderInUseError: if another process writes to the folder.
      FloatingPointError: if a score becomes NaN or infinite.
    """
    network = run.network
    if results is not None and observer is None:
        raise ValueError(
            "results is given without an observer; expected the run of another "
            "network, because its predictions are recorded"
        )
    names = network.class_names
    if observer is not None and observer.network.class_names != names:
        raise ValueError(
            f"the observer {observer.workdir} has other classes than {run.workdir}; "
            "expected a run with the same classes in the same order, because its "
            "predictions are compared with these classes"
        )
    labels = class_indices(classes, names)
    size = network.spec.input_size if size is None else size
    optimisation = _Optimisation(form, size, steps, seeds, batch_size)
    if problem := empty_endpoint(network.spec, size):
        raise ValueError(f"size is {size}; expected more pixels, because {problem}")
    out = pathlib.Path(out).expanduser()
    started = time.monotonic()
    with records.lock(out):
        maximised = _maximise_all(run, labels, optimisation, out)
        scores = zip(labels, maximised.scores, strict=True)
        by_itself = count_recognised(network, maximised.images, labels)
        result = {
            "model": network.spec.name,
            "variables": records.variables_hash(network.variables),
            "form": form,
            "size": size,
            "steps": steps,
            "seeds": seeds,
            "classes": len(labels),
            "recognised": {network.spec.name: by_itself},
            "recognised_by_itself": by_itself,
            "seconds": round(time.monotonic() - started, 1),
            "scores": {names[label]: float(score) for label, score in scores},
            **records.provenance(command),
        }
        if observer is not None:
            result["judge"] = observer.network.spec.name
            result["recognised"][_observer_key(run, observer)] = count_recognised(
                observer.network, maximised.images, labels
            )
        titles = [names[label] for label in labels]
        figures.write_sheet(out / "sheet.png", list(maximised.images), titles)
        figures.write_score_curves(out / "curves.png", maximised.curves, titles)
        records.write_json(out / "result.json", result)
    if results is not None and observer is not None:
        _record(pathlib.Path(results), run, observer, result)
    return result


def _observer_key(run: Run, observer: Run) -> str:
    """Return the key of the observer's count, which is not the key of the run's own."""
    name = observer.network.spec.name
    return f"{name} (observer)" if name == run.network.spec.name else name


def _record(
    folder: pathlib.Path, run: Run, observer: Run, result: dict[str, Any]
) -> None:
    """Write the counts of a result to activation_max.json."""
    entry = {key: value for key, value in result.items() if key != "scores"}
    entry |= {
        "recognised": result["recognised"][_observer_key(run, observer)],
        "run": records.config_hash(run.config),
        "judge_run": records.config_hash(observer.config),
    }
    path = folder / "activation_max.json"
    records.add_entry(path, result["model"], result["form"], entry)


def _maximise_all(
    run: Run,
    labels: Int[np.ndarray, " k"],
    optimisation: _Optimisation,
    out: pathlib.Path,
) -> _Maximised:
    """Optimise an image for each label, in batches, and write each as a PNG."""
    network, form = run.network, activation_max.FORMS[optimisation.form]
    natural = _natural_statistics(run, optimisation.size) if form.naturalness else None
    firsts = range(0, len(labels), optimisation.batch_size)
    total = len(firsts) * optimisation.seeds * optimisation.steps
    mesh, parts = sharding.make_mesh(), []
    variables = sharding.replicate(network.variables, mesh)
    with progress_bar("maximising", total, "step") as bar:
        maximise = _make_maximise(network, optimisation, lambda _: bar.update())
        for first in firsts:
            chosen = labels[first : first + optimisation.batch_size]
            # Repeats fill the last batch, which avoids a second compilation.
            size = min(optimisation.batch_size, len(labels))
            rows = sharding.shard_rows(np.resize(chosen, size), mesh)
            by_seed = (
                maximise(variables, rows, jax.random.key(seed), natural)
                for seed in range(optimisation.seeds)
            )
            part = _to_host(functools.reduce(_better, by_seed), len(chosen))
            _write_images(out, part, [network.class_names[i] for i in chosen], chosen)
            parts.append(part)
        jax.effects_barrier()  # Wait for the last reports to the progress bar.
    return _Maximised(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.curves for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def _make_maximise(
    network: Network,
    optimisation: _Optimisation,
    on_step: Callable[[Int[Array, ""]], None],
) -> Callable[..., Maximised]:
    """Return the jitted function (variables, labels, key, natural) -> `Maximised`."""
    form = activation_max.FORMS[optimisation.form]

    @jax.jit
    def maximise(variables, labels, key, natural):
        return activation_max.maximise(
            network.bind(variables),
            labels,
            key,
            form,
            size=optimisation.size,
            steps=optimisation.steps,
            natural=natural,
            on_step=on_step,
        )

    return maximise


def _to_host(maximised: Maximised, count: int) -> _Maximised:
    """Copy the results of the first classes to the host."""
    return _Maximised(
        np.asarray(maximised.images)[:count],
        np.asarray(maximised.curves).T[:count],
        np.asarray(maximised.scores)[:count],
    )


def _better(a: Maximised, b: Maximised) -> Maximised:
    """Return, for each class, the result with the larger score."""
    is_first = a.scores >= b.scores
    return Maximised(
        jnp.where(is_first[:, None, None, None], a.images, b.images),
        jnp.where(is_first, a.curves, b.curves),
        jnp.where(is_first, a.scores, b.scores),
    )


def _write_images(
    out: pathlib.Path,
    maximised: _Maximised,
    class_names: Sequence[str],
    labels: Int[np.ndarray, " k"],
) -> None:
    """Write a PNG for each class; FloatingPointError if a score is not finite.

    The result of an earlier call is removed first. An interrupted call then leaves no
    result, so the report shows no mixture of the images of two calls.
    """
    finite = np.isfinite(maximised.scores)
    if not finite.all():
        failed = [name for name, ok in zip(class_names, finite, strict=True) if not ok]
        raise FloatingPointError(
            f"the scores of {failed} became NaN or infinite; no image of their batch "
            "was written. Try --form=plain"
        )
    (out / "result.json").unlink(missing_ok=True)
    for image, name, label in zip(maximised.images, class_names, labels, strict=True):
        stem = text.file_stem(name)
        pixels = image.round().astype(np.uint8)
        figures.write_png(out / f"{label:03d}_{stem}.png", pixels)


def _natural_statistics(run: Run, size: int) -> NaturalStatistics:
    """Compute `activation_max.statistics` of training images at a size."""
    network, dataset = run.network, of_run(run)
    shuffled = np.random.default_rng(0).permutation(dataset.indices("train"))
    view = dataclasses.replace(network.view, size=size)
    mesh = sharding.make_mesh()
    batch_size = whole_batch_size(_BATCH_SIZE, mesh)
    evaluator = Evaluator(
        network.spec, (view,), batch_size, mesh, preprocess=network.preprocess
    )
    moments = evaluator.stream(
        _make_moments(network, view),
        network.variables,
        dataset.reader,
        shuffled[:_NATURAL_IMAGES],
    )
    return activation_max.statistics(
        jax.tree.map(lambda *parts: np.concatenate(parts), *moments)
    )


def _make_moments(network: Network, view: View) -> Compute:
    """Return the jitted function (variables, batch) -> moments of images in a view."""

    @jax.jit
    def compute(variables: dict, batch: Batch) -> activation_max.Moments:
        images = view(batch["canvas"], batch["sizes"])
        return activation_max.moments(network.bind(variables)(images)[1])

    return compute


def count_recognised(
    network: Network,
    images: Float[np.ndarray, "k h w 3"],
    labels: Int[np.ndarray, " k"],
) -> int:
    """Count the images that a network classifies correctly, resized to its view.

    Args:
      network: the network that classifies.
      images: square images in [0, 255], of any size.
      labels: the maximised class of each image.
    """
    mesh, classify = sharding.make_mesh(), _make_classify(network)
    variables = sharding.replicate(network.variables, mesh)
    predictions = []
    for first in range(0, len(images), _BATCH_SIZE):
        part = images[first : first + _BATCH_SIZE]
        rows = classify(variables, sharding.shard_rows(part, mesh))
        predictions.append(np.asarray(rows)[: len(part)])
    return int((np.concatenate(predictions) == labels).sum())


def _make_classify(network: Network) -> Callable[..., Int[Array, " n"]]:
    """Return the jitted function (variables, images) -> predicted classes."""
    side = network.view.size

    @jax.jit
    def classify(variables: dict, images: Float[Array, "n h w 3"]) -> Int[Array, " n"]:
        resized = jax.image.resize(images, (len(images), side, side, 3), "bilinear")
        return network.bind(variables)(resized)[0].argmax(-1)

    return classify


def read_images(
    folder: str | os.PathLike,
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Yield (class index, pixels) of the images that `maximise_classes` wrote.

    The classes are in ascending order. A folder without such images yields nothing.
    """
    paths = pathlib.Path(folder).glob("[0-9]*_*.png")
    by_class = {int(path.name.partition("_")[0]): path for path in paths}
    for index, path in sorted(by_class.items()):
        with Image.open(path) as image:
            yield index, np.asarray(image)
