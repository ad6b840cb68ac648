"""Compute metrics of attribution methods for a run's network, on its own images.

    images = of_run(run).images("test")           # of `experiment.images`
    table = score_methods(run, images, ["saliency", "grad_cam"], "attribution_eval")

Only correctly classified images are scored. `attribution.metrics` defines the metrics.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from seeflower_jax import hints, records, sharding
from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution import registry
from seeflower_jax.attribution.types import Layer
from seeflower_jax.data import loader
from seeflower_jax.data.drawing import Mask
from seeflower_jax.data.images import Images
from seeflower_jax.evaluation.metrics import are_correct
from seeflower_jax.explain import score_table
from seeflower_jax.explain.grids import draw_grids
from seeflower_jax.explain.identity import text_hash
from seeflower_jax.explain.masks import seen_masks
from seeflower_jax.explain.scorer import Scorer, localise
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.predict import place_images, whole_batch_size
from seeflower_jax.inference.run import Run
from seeflower_jax.records.progress_bar import progress_bar

_OF_MAPS = {"faithfulness", "infidelity", "localisation"}  # metrics of given maps

# {method: {column: a value for each image or grid}}
Scores = dict[str, dict[str, list[float]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Correctly classified images.

    Attributes:
      images: what the network sees, in [0, 255], float16 to save memory.
      labels: their classes.
      positions: their positions in the list that they were chosen from.
    """

    images: Float[np.ndarray, "n s s 3"]
    labels: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def score_methods(
    run: Run,
    images: Images,
    methods: Sequence[str],
    out: str | os.PathLike,
    *,
    metrics: Sequence[str] = score_table.DEFAULT_METRICS,
    masks: Callable[[int], Mask] | None = None,
    limit: int = 200,
    layer: Layer | None = None,
    options: Mapping[str, Mapping] | None = None,
    grid_size: int = 0,
    batch_size: int = 8,
    command: str = "",
    results: str | os.PathLike | None = None,
) -> str:
    """Compute metrics of methods, and write result.json, table.md and table.png.

    Args:
      run: the run with the network to explain. Its seed makes choices repeatable.
      images: images with known labels.
      methods: keys of `attribution.registry.METHODS`.
      out: the folder to write to.
      metrics: keys of `score_table.METRICS`.
      masks: function from the position of an image to the mask of its object, for the
        metrics `localisation`.
      limit: number of correctly classified images, and of grids. The randomisation
        check uses the first batch only.
      layer: layer of class activation maps, several layers, or "head". The default is
        `attribution.batch.map_layer`.
      options: options of methods by name, `{"integrated_gradients": {"steps": 8}}`.
      grid_size: side of the grids in pixels, even; 0 is twice the side of an image.
      batch_size: number of images at once.
      command: the command that the user typed, for the record.
      results: a folder; the scores are written to its pointing_game.json,
        faithfulness.json, localisation.json and completeness.json.

    Returns:
      The table, in Markdown.

    Raises:
      ValueError: if a metric, a method or a layer is unknown, `grid_size` is odd, a
        number is below 1, or `localisation` has no masks. Also if too few images are
        classified correctly, or if grids cannot have the side of the images.
    """
    registry.check_methods(methods)
    check_metrics(metrics, methods)
    if "localisation" in metrics and masks is None:
        raise ValueError("the metrics 'localisation' need masks; give `masks`")
    hints.check_count("limit", limit)
    hints.check_count("batch_size", batch_size)
    if grid_size < 0 or grid_size % 2:
        raise ValueError(
            f"grid_size is {grid_size}; expected an even number of pixels, 0 or more, "
            "because a grid has two rows of two images"
        )
    network, seed = run.network, run.config["seed"]
    is_default_layer = layer is None
    layer = layer or attribution_batch.map_layer(network.spec, network.view.size)
    scorer = Scorer(network, methods, layer, options, grid_size, seed)
    if "pointing_game" in metrics:
        scorer.check_grids()
    examples = choose_correct(network, images, limit, batch_size, seed)
    if not len(examples):
        raise ValueError(
            f"none of {len(images)} images is classified correctly; expected at least "
            "one, because only such images are scored"
        )
    result: dict[str, Any] = {
        "model": network.spec.name,
        "layer": layer if isinstance(layer, str) else list(layer),
        "pictures": len(examples),
        "images": text_hash(images.names[i] for i in examples.positions),
        "options": {name: dict(values) for name, values in (options or {}).items()},
    }
    scores: Scores = {name: {} for name in methods}
    if "pointing_game" in metrics:
        grids = draw_grids(examples.labels, limit, seed)
        for name, values in _play(scorer, examples, grids, batch_size).items():
            scores[name]["pointing_game"] = values
        result |= {"grids": len(grids), "grid_size": scorer.grid_size}
        result["chance"] = {"pointing_game": 0.25}
    if set(metrics) - {"pointing_game"}:
        seen = None
        if masks is not None:
            seen = seen_masks([masks(i) for i in examples.positions], network.view)
        by_image, levels = _score_images(scorer, examples, seen, metrics, batch_size)
        for name in methods:
            scores[name] |= by_image[name]
        if seen is not None:
            result.setdefault("chance", {})["localisation"] = float(seen.mean())
        if levels:
            result["randomisation_by_level"] = levels
    result["methods"] = {
        name: {
            key: float(f"{np.mean(columns[key]):.4g}")
            for key in score_table.COLUMNS
            if key in columns
        }
        for name, columns in scores.items()
    }
    result |= records.provenance(command)
    if results is not None:
        score_table.record(pathlib.Path(results), run, result, is_default_layer)
    return score_table.write(pathlib.Path(out).expanduser(), result)


def check_metrics(metrics: Sequence[str], methods: Sequence[str]) -> None:
    """Check that metrics are known, that there is one, and that methods have them.

    Raises:
      ValueError: if a metric is unknown, or there is none; the message lists the known
        metrics. Also for the completeness of methods without layers.
    """
    known = ", ".join(score_table.METRICS)
    if not metrics:
        raise ValueError(f"no metric given; known are {known}")
    for name in metrics:
        if name not in score_table.METRICS:
            hint = hints.did_you_mean(name, score_table.METRICS)
            raise ValueError(f"unknown metric {name!r}: known are {known}{hint}")
    if "completeness" in metrics and not any(map(_has_layers, methods)):
        raise ValueError(
            "the metrics 'completeness' are of layers, and none of the methods "
            f"({', '.join(methods)}) has layers; add one that has, such as grad_cam"
        )


def _has_layers(method: str) -> bool:
    return registry.METHODS[method].layered


def choose_correct(
    network: Network, images: Images, limit: int, batch_size: int, seed: int
) -> Examples:
    """Return up to `limit` images that a network classifies correctly.

    Args:
      network: the network that classifies.
      images: images with known labels.
      limit: largest number of images.
      batch_size: number of images at once, rounded up to a multiple of the devices.
      seed: seed of the order in which images are classified.

    Raises:
      UnreadableImage: if a file is not an image; the message names it.
    """
    mesh = sharding.make_mesh()
    batch_size = whole_batch_size(batch_size, mesh)
    variables = sharding.replicate(network.variables, mesh)

    @jax.jit
    def classify(variables, canvas, sizes):
        views = network.view(canvas, sizes)
        return views, network.bind(variables)(views)[0]

    order = np.random.default_rng(seed).permutation(len(images))
    shuffled = images[order.tolist()]
    size = network.view.size
    none = np.zeros(0, np.int32)
    correct = [(np.zeros((0, size, size, 3), np.float16), none, none)]
    count = 0
    with progress_bar("choosing", limit, "image") as bar:
        for batch in loader.read_batches(shuffled, batch_size):
            if batch.errors:
                raise next(iter(batch.errors.values()))
            placed = place_images(batch.pixels, network.view, batch_size, mesh)
            views, logits = jax.device_get(classify(variables, **placed))
            labels = np.array([shuffled.labels[i] for i in batch.positions], np.int32)
            is_correct = are_correct(logits[: len(labels)], labels)
            seen = views[: len(labels)][is_correct].astype(np.float16)
            positions = order[batch.positions][is_correct]
            correct.append((seen, labels[is_correct], positions))
            bar.update(min(is_correct.sum(), limit - count))
            count += is_correct.sum()
            if count >= limit:
                break
    arrays = map(np.concatenate, zip(*correct, strict=True))
    return Examples(*(array[:limit] for array in arrays))


def _play(
    scorer: Scorer,
    examples: Examples,
    grids: Int[np.ndarray, "n 4"],
    batch_size: int,
) -> dict[str, list[float]]:
    """Play the grid pointing game; return {method: a score for each grid}.

    A grid has the pixels of four images, so the batch size is a quarter.
    """
    scores: dict[str, list[float]] = {}
    quarter = max(1, batch_size // 4)
    with progress_bar("pointing game", len(grids), "grid") as bar:
        for first in range(0, len(grids), quarter):
            rows = np.arange(first, first + quarter) % len(grids)
            chosen = grids[rows]
            images = examples.images[chosen].astype(np.float32)
            by_method = scorer.grids(images, examples.labels[chosen], rows % 4, rows)
            count = min(quarter, len(grids) - first)
            for name, values in by_method.items():
                scores.setdefault(name, []).extend(values[:count].tolist())
            bar.update(count)
    return scores


def _score_images(
    scorer: Scorer,
    examples: Examples,
    masks: Bool[np.ndarray, "n s s"] | None,
    metrics: Sequence[str],
    batch_size: int,
) -> tuple[Scores, dict[str, list[float]]]:
    """Compute the metrics of single images, and the levels of randomisation."""
    scores: Scores = {}
    levels: dict[str, list[float]] = {}
    with progress_bar("metrics", len(examples), "image") as bar:
        for first in range(0, len(examples), batch_size):
            count = min(batch_size, len(examples) - first)
            # Repeats fill the last batch, which avoids a second compilation.
            rows = np.resize(np.arange(first, first + count), batch_size)
            images = examples.images[rows].astype(np.float32)
            labels, positions = examples.labels[rows], examples.positions[rows]
            columns: dict[str, dict[str, Any]] = {name: {} for name in scorer.methods}
            if _OF_MAPS & set(metrics):
                maps = scorer.maps(images, labels, positions)
                for name, values in maps.items():
                    if "faithfulness" in metrics:
                        columns[name] |= scorer.faithfulness(images, values, labels)
                    if "infidelity" in metrics:
                        columns[name]["infidelity"] = scorer.infidelity(
                            images, values, labels, positions
                        )
                    if "localisation" in metrics and masks is not None:
                        columns[name] |= localise(values, masks[rows])
                if "faithfulness" in metrics and not levels:
                    levels = scorer.randomised(images, maps, labels, positions, count)
            if "sensitivity" in metrics:
                changes = scorer.sensitivity(images, labels, positions)
                for name, values in changes.items():
                    columns[name]["max_sensitivity"] = values
            if "completeness" in metrics:
                share = scorer.completeness(images, labels)
                both = {"completeness": share, "completeness_error": abs(share - 1)}
                for name in filter(_has_layers, scorer.methods):
                    columns[name] |= both
            for name in scorer.methods:
                into = scores.setdefault(name, {})
                for key, column in columns[name].items():
                    into.setdefault(key, []).extend(column[:count].tolist())
            bar.update(count)
    for name, values in levels.items():
        scores[name]["randomisation"] = values
    return scores, levels
