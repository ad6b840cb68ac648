"""Measure two directions of the paper's conclusion: segmentation and parts.

    study = Study(load_run("runs/inception_v3_official_linear_seed0"))
    rows = {name: study.row(name, "validation") for name in VARIANTS}

A variant solves a linear head on the features of one or more crops of an image, side by
side, or a head for each crop. The crops are found without labels, see `discovery`. The
network stays as it is.

Source: the See-Flower paper, section 5.
"""

import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from seeflower_jax import models, records
from seeflower_jax.attribution.batch import endpoint_shapes
from seeflower_jax.attribution.layers import check_layer
from seeflower_jax.data.loader import Annotated
from seeflower_jax.evaluation import metrics
from seeflower_jax.evaluation.evaluator import Compute
from seeflower_jax.experiment import evaluate, images, kept, precision
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.figures import maps
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.run import Run, check_finished
from seeflower_jax.records.files import exclusive
from seeflower_jax.studies import discovery
from seeflower_jax.training import ridge
from seeflower_jax.training.stages import beyond_head

PARTS = (2, 4, 8)
# Networks in which objects are not found in the layer of class activation maps.
LAYERS = {"inception_v3": "mixed7"}
_BLOCK = 64  # images whose features are in memory at a time

_PARTS_OF = {count: tuple(f"part{i}of{count}" for i in range(count)) for count in PARTS}

# The crops that each head of a variant reads. The logits of several heads are averaged.
VARIANTS: Mapping[str, Sequence[Sequence[str]]] = {
    "whole image": [["whole"]],
    "object": [["object"]],
    "whole image and object": [["whole", "object"]],
    **{
        f"whole image and {count} parts": [["whole", *parts]]
        for count, parts in _PARTS_OF.items()
    },
    "whole image and object and 4 parts": [["whole", "object", *_PARTS_OF[4]]],
    "mean of whole image and object": [["whole"], ["object"]],
    **{
        f"mean of whole image and {count} parts": [["whole"], *zip(parts, strict=True)]
        for count, parts in _PARTS_OF.items()
    },
}


def _check(run: Run) -> None:
    """Raise an error unless the run is finished and trains only the head."""
    check_finished(run)
    settings = settings_of(run)
    keys = ["init.pretraining"] if settings.pretraining else []
    names = beyond_head(settings.stages, run.network.spec.head)
    if keys := keys + [f"stages.{name}" for name in names]:
        raise ValueError(
            f"{run.workdir} trained its network in config.{keys[0]}; expected a run "
            "that trains only the head, such as a run of the recipe linear"
        )


class Study:
    """The variants of one run of the recipe `linear`.

    Features of crops are kept in the folder `directions` of the run directory.

    Args:
      run: the run with the network that computes the features.
      layer: endpoint in which objects and parts are found. The default is `mixed7` for
        Inception-v3, and the layer of class activation maps for other networks.

    Raises:
      ValueError: if the run is not finished or trains more than the head, if the
        network has no such layer, or if the layer has a single position.
    """

    def __init__(self, run: Run, layer: str | None = None):
        _check(run)
        network = run.network
        self.run = run
        self.layer = layer or LAYERS.get(network.spec.name, network.spec.cam_layer)
        shapes = endpoint_shapes(network.spec, network.view.size)
        check_layer(shapes, self.layer)
        self.dataset = images.of_run(run)
        self._evaluator = evaluate.single_view(run)
        self._boxes: dict[str, dict[str, Float[np.ndarray, "n 3"]]] = {}

    def row(self, name: str, split: str) -> dict[str, float]:
        """Return the metrics of a variant on a split.

        Args:
          name: a key of `VARIANTS`.
          split: 'validation' or 'test'.
        """
        settings = settings_of(self.run)
        with precision.of_products(settings.device.matmul_precision):
            logits = [self._logits(crops, split) for crops in VARIANTS[name]]
        return metrics.compute(np.mean(logits, 0), self.dataset.labels(split))

    def _logits(self, crops: Sequence[str], split: str) -> Float[np.ndarray, "n k"]:
        """Return the logits of a head that is solved on crops of training images."""
        fit = ridge.solve_side_by_side(
            [self._features(crop, "train") for crop in crops],
            self.dataset.labels("train"),
            len(self.run.network.class_names),
            settings_of(self.run).balanced,
        )
        parts = [self._features(crop, split) for crop in crops]
        logits = [
            fit(np.concatenate([part[i : i + _BLOCK] for part in parts], 1))
            for i in range(0, len(parts[0]), _BLOCK)
        ]
        return np.concatenate(logits)

    @functools.cached_property
    def components(self) -> discovery.Components:
        """The components of the training images, see `discovery`."""
        return discovery.fit(self._layer_features("train"), PARTS)

    def boxes(self, crop: str, split: str) -> Float[np.ndarray, "n 3"]:
        """Return the box of a crop in each image of a split.

        Args:
          crop: 'whole', 'object' or 'part<i>of<k>'.
          split: name of the split.
        """
        if crop == "whole":
            return np.tile(discovery.WHOLE, (len(self.dataset.indices(split)), 1))
        if split not in self._boxes:
            batches = self._layer_features(split)
            found = [self._find(features) for rows in batches for features in rows]
            self._boxes[split] = {k: np.stack([f[k] for f in found]) for k in found[0]}
        return self._boxes[split][crop]

    def _find(self, features: Float[np.ndarray, "h w c"]) -> dict[str, discovery.Box]:
        """Return the box of each crop of an image, except the whole image."""
        values = self.components.object_map(features)
        boxes = {"object": discovery.object_box(values)}
        region = discovery.object_region(values)
        for count in PARTS:
            parts = self.components.part_boxes(features, region, count)
            boxes |= {f"part{i}of{count}": box for i, box in enumerate(parts)}
        return boxes

    def _layer_features(self, split: str) -> Iterator[Float[np.ndarray, "b h w c"]]:
        """Yield the features of the layer, in batches."""
        return self._evaluator.stream(
            self._compute_layer,
            self.run.network.variables,
            self.dataset.reader,
            self.dataset.indices(split),
            f"{self.layer}, {split}",
        )

    @functools.cached_property
    def _compute_layer(self) -> Compute:
        return _make_layer_features(self.run.network, self.layer)

    def _features(self, crop: str, split: str) -> Float[np.ndarray, "n d"]:
        """Return the features of a crop of all images of a split."""
        network, indices = self.run.network, self.dataset.indices(split)
        path = self.run.workdir / "directions" / f"{crop}_{split}.npy"
        origin = (
            f"{self.layer}, {self.dataset.content_hash}, "
            f"variables {records.variables_hash(network.variables)}"
        )
        if crop != "whole":
            origin += f", {discovery.METHOD}"

        def compute(first: int) -> Iterator[Float[np.ndarray, "b d"]]:
            boxes = np.zeros((len(self.dataset.source.labels), 3), np.float32)
            boxes[indices] = self.boxes(crop, split)
            return self._evaluator.stream(
                self._compute_crop,
                network.variables,
                Annotated(self.dataset.reader, "boxes", boxes),
                indices,
                f"{crop}, {split}",
                first,
            )

        return kept.features(path, origin, len(indices), compute)

    @functools.cached_property
    def _compute_crop(self) -> Compute:
        return _make_crop_features(self.run.network)


def _make_layer_features(network: Network, layer: str) -> Compute:
    """Return the jitted function (variables, batch) -> features of a layer."""

    @jax.jit
    def compute(variables: dict, batch: dict) -> Float[Array, "b h w c"]:
        seen = network.view(batch["canvas"], batch["sizes"])
        return network.bind(variables)(seen)[1][layer]

    return compute


def _make_crop_features(network: Network) -> Compute:
    """Return the jitted function (variables, batch) -> features of boxes."""

    @jax.jit
    def compute(variables: dict, batch: dict) -> Float[Array, "b d"]:
        boxes = batch["boxes"]
        seen = network.view.zoom(
            batch["canvas"], batch["sizes"], boxes[:, :2], boxes[:, 2]
        )
        if network.preprocess is not None:
            seen = network.preprocess(seen)
        return models.features(network.spec, variables, seen)

    return compute


def draw(study: Study, path: str | os.PathLike, count: int = 10) -> None:
    """Draw the object and four parts of evenly spaced validation images.

    Args:
      study: the study.
      path: path of the image file to write.
      count: number of images.
    """
    split = "validation"
    crops = ["object", *(f"part{i}of4" for i in range(4))]
    photos = study.dataset.images(split)
    columns: dict[str, list] = {crop: [] for crop in ("image", *crops)}
    for position in np.linspace(0, len(photos) - 1, count).round().astype(int):
        seen = study.run.network.see(photos.read(position))
        marked = seen
        for crop in crops:
            y, x, half = study.boxes(crop, split)[position]
            edges = (np.array([x - half, y - half, x + half, y + half]) + 1) / 2
            left, top, right, bottom = (edges * len(seen)).round().astype(int)
            marked = maps.draw_box(marked, (left, top, right, bottom))
            part = Image.fromarray(seen[top:bottom, left:right])
            columns[crop].append(np.asarray(part.resize(seen.shape[:2])))
        columns["image"].append(marked)
    titles = [f"{position + 1}" for position in range(count)]
    maps.write_rows(path, columns, titles)


def record(
    study: Study, rows: Mapping[str, Mapping], folder: str | os.PathLike, command: str
) -> pathlib.Path:
    """Enter rows into `directions.json` of a folder of results; return its path.

    Each result has the command and the code that made it. Rows of another run, or
    of another layer, are replaced. Several processes may enter rows at the same time.

    Args:
      study: the study.
      rows: {variant: {split: metrics}}.
      folder: the folder of recorded results.
      command: command line, for the record.
    """
    path = pathlib.Path(folder).expanduser() / "directions.json"
    described = {
        "model": study.run.network.spec.name,
        "layer": study.layer,
        "split": study.run.config["data"]["split"],
        "seed": study.run.config["seed"],
        "weights": study.run.result["weights"],
        "config_hash": records.config_hash(study.run.config),
    }
    origin = evaluate.provenance(study.run, command)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent):
        before = load_rows(folder)
        same = all(before.get(key) == value for key, value in described.items())
        merged = dict(before["rows"]) if same else {}
        for name, row in rows.items():
            measured = {split: {**values, **origin} for split, values in row.items()}
            merged[name] = {**merged.get(name, {}), **measured}
        records.write_json(path, {**described, "rows": merged})
    return path


def load_rows(folder: str | os.PathLike) -> dict:
    """Read `directions.json` of a folder of results; {} if there is none.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(folder).expanduser() / "directions.json"
    advice = "restore it, or delete it and record the rows with scripts.directions"
    return records.read_sections(path, {"rows": dict}, advice)
