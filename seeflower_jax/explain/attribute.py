"""Compute attribution maps of many images, from files to files.

    network = load("runs/inception_seed0")
    attribute(network, network.images("photos/"), ["grad_cam"], out="maps")

The maps are written in shards, by `explain.store`, so memory does not grow with the
number of images. An interrupted call is continued by the same call. One call at a time
writes to a folder.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float, Int32

from seeflower_jax import records
from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution import localisation, registry
from seeflower_jax.attribution.types import Layer
from seeflower_jax.data import loader
from seeflower_jax.data.images import Images
from seeflower_jax.explain.inputs import target_labels
from seeflower_jax.explain.store import MapStore, ShardContent
from seeflower_jax.figures import maps as figures
from seeflower_jax.figures import text
from seeflower_jax.inference.explainer import Explained, Explainer
from seeflower_jax.inference.network import Network

_SHEET_IMAGES = 24


def attribute(
    network: Network,
    images: Images,
    methods: Sequence[str],
    out: str | os.PathLike,
    *,
    target: str = "predicted",
    layer: Layer | None = None,
    options: Mapping[str, Mapping] | None = None,
    batch_size: int = 16,
    dtype: str = "float16",
    overlays: bool = False,
    boxes: bool = True,
) -> list[dict]:
    """Write maps, their index and contact sheets; resume an interrupted call.

    The index has the predicted class and its calibrated probability, as
    `Network.predict` gives it.

    Args:
      network: of `seeflower_jax.load`.
      images: of `Network.images`, or of a dataset.
      methods: keys of `attribution.registry.METHODS`.
      out: the folder.
      target: see `inputs.target_labels`.
      layer: of class activation maps, several of them, or "head". The default is
        `attribution.batch.map_layer`.
      options: of methods by name, `{"integrated_gradients": {"steps": 8}}`.
      batch_size: images at once, rounded up to a multiple of the devices.
      dtype: of the maps on disk, 'float16' or 'float32'. `MapStore.read` restores
        float16 maps to within 0.05 % of the map's largest magnitude.
      overlays: whether to write a PNG per image and method too.
      boxes: whether the index has a `box` for each class activation map, [left, top,
        right, bottom] in pixels of the original image, upright, and overlays show it.
        See `localisation.bounding_boxes`.

    Returns:
      The images without maps, because a file cannot be read or a map is not finite:
      dicts of `image` and `error`.

    Raises:
      ValueError: for unknown methods, layers, targets and types, for a batch size below
        1, and for a folder with maps of other settings.
      DamagedFileError: if the folder has maps, and a file of them is damaged.
      FullDiskError: if the disk is full.
      FolderInUseError: if another process writes to the folder.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype is {dtype!r}; expected 'float16' or 'float32'")
    labels = target_labels(target, images, network.class_names)
    registry.check_methods(methods)
    layer = layer or attribution_batch.map_layer(network.spec, network.view.size)
    explainer = Explainer(network, methods, layer, batch_size, options)
    # A file name may have bytes that are not text.
    names = "\n".join(images.names).encode(errors="backslashreplace")
    settings = {
        "network": network.origin,
        "variables": records.variables_hash(network.variables),
        "images": f"{len(images)} ({hashlib.sha256(names).hexdigest()[:12]})",
        "methods": list(methods),
        "target": target,
        "layer": layer if isinstance(layer, str) else list(layer),
        "options": {k: dict(v) for k, v in (options or {}).items()},
        "dtype": dtype,
        "boxes": boxes,
    }
    with records.lock(out):
        store = MapStore(out, settings)
        writer = _ShardWriter(store, network, images, overlays, boxes)
        _write_shards(store, writer, explainer, images, labels)
        _write_sheets(store, images, methods, network)
    return store.skipped()


def _write_shards(
    store: MapStore,
    writer: "_ShardWriter",
    explainer: Explainer,
    images: Images,
    labels: Int32[np.ndarray, " n"],
) -> None:
    """Compute and write the shards that the store does not have yet."""
    with tqdm.tqdm(total=len(images), desc="attribution", unit="image") as bar:
        for shard, positions in store.remaining(len(images)):
            bar.update(positions.start - bar.n)
            for batch in loader.read_batches(images, explainer.batch_size, positions):
                explained = None
                if batch.positions:
                    targets = labels[batch.positions].tolist()
                    explained = explainer(batch.positions, batch.pixels, targets)
                    rate = (bar.format_dict["rate"] or 0) * len(explained.maps)
                    bar.set_postfix_str(f"{rate:.1f} maps/s", refresh=False)
                writer.add(batch, explained)
                bar.update(len(batch.positions) + len(batch.errors))
            writer.write(shard)


class _ShardWriter:
    """Collects what was computed, and writes a shard of it."""

    def __init__(
        self,
        store: MapStore,
        network: Network,
        images: Images,
        overlays: bool,
        boxes: bool,
    ):
        self._store, self._network, self._images = store, network, images
        self._overlays, self._boxes = overlays, boxes
        self._clear()

    def _clear(self) -> None:
        self._maps: dict[str, list[np.ndarray]] = {}
        self._lines: list[dict] = []
        self._extras: dict[str, list[dict]] = {}
        self._skipped: list[dict] = []

    def add(self, batch: loader.ImageBatch, explained: Explained | None) -> None:
        """Add a batch; `explained` is of its images that could be read, if any."""
        self._skipped += [
            {"image": self._images.names[position], "error": str(error)}
            for position, error in batch.errors.items()
        ]
        if explained is None:
            return
        positions, explained = self._skip_infinite(batch.positions, explained)
        self._lines += self._describe(positions, explained)
        for method, values in explained.maps.items():
            self._maps.setdefault(method, []).append(values)
        boxes_by_method = {}
        if self._boxes:
            boxes_by_method = {
                method: _boxes(values)
                for method, values in explained.maps.items()
                if registry.METHODS[method].layered
            }
            self._add_boxes(positions, boxes_by_method)
        if self._overlays:
            self._write_overlays(positions, explained, boxes_by_method)

    def _skip_infinite(
        self, positions: Sequence[int], explained: Explained
    ) -> tuple[list[int], Explained]:
        """Skip images with a logit or a map value that is NaN or infinite."""
        arrays = {"logits": explained.logits, **explained.maps}
        kept = []
        for row, position in enumerate(positions):
            wrong = [
                k for k, array in arrays.items() if not np.isfinite(array[row]).all()
            ]
            if not wrong:
                kept.append(row)
                continue
            name = self._images.names[position]
            error = f"{name} has values that are not finite in {', '.join(wrong)}"
            self._skipped.append({"image": name, "error": error})
        explained = Explained(
            explained.images[kept],
            explained.logits[kept],
            explained.targets[kept],
            {method: values[kept] for method, values in explained.maps.items()},
        )
        return [positions[row] for row in kept], explained

    def write(self, shard: int) -> None:
        """Write what was added as a shard, and start anew."""
        maps = {method: np.concatenate(values) for method, values in self._maps.items()}
        content = ShardContent(maps, self._lines, self._extras, self._skipped)
        self._store.write(shard, content)
        self._clear()

    def _describe(self, positions: Sequence[int], explained: Explained) -> list[dict]:
        """Return what the index says of images, a dict each."""
        names = self._network.class_names
        probabilities = self._network.probabilities(explained.logits)
        return [
            {
                "image": self._images.names[position],
                "position": position,
                "prediction": names[row.argmax()],
                "probability": round(float(row.max()), 6),
                "target": names[label],
            }
            for position, row, label in zip(
                positions, probabilities, explained.targets, strict=True
            )
        ]

    def _add_boxes(
        self,
        positions: Sequence[int],
        boxes_by_method: Mapping[str, Float[np.ndarray, "n 4"]],
    ) -> None:
        """Add the boxes of maps, in pixels of the original images, to the index."""
        if not boxes_by_method:
            return
        view = self._network.view
        sizes = [self._images.original_size(position) for position in positions]
        for method, boxes in boxes_by_method.items():
            self._extras.setdefault(method, []).extend(
                {"box": view.box_in_original(box / view.size, size)}
                for box, size in zip(boxes, sizes, strict=True)
            )

    def _write_overlays(
        self,
        positions: Sequence[int],
        explained: Explained,
        boxes_by_method: Mapping[str, np.ndarray],
    ) -> None:
        """Write a PNG per image and method, in overlays/<method>/."""
        for method, values in explained.maps.items():
            folder = self._store.folder / "overlays" / method
            folder.mkdir(parents=True, exist_ok=True)
            for row, position in enumerate(positions):
                pixels = figures.overlay(
                    explained.images[row], values[row], registry.METHODS[method].signed
                )
                if method in boxes_by_method:
                    pixels = figures.draw_box(pixels, boxes_by_method[method][row])
                name = pathlib.Path(self._images.names[position]).stem
                stem = text.file_stem(name)
                figures.write_png(folder / f"{position:06d}_{stem}.png", pixels)


def _boxes(maps: Float[np.ndarray, "n h w"]) -> np.ndarray:
    """Return the box of each map: left, top, right, bottom in its pixels."""
    return np.asarray(localisation.bounding_boxes(jnp.asarray(maps)))[:, [1, 0, 3, 2]]


def _write_sheets(
    store: MapStore, images: Images, methods: Sequence[str], network: Network
) -> None:
    """Write a contact sheet of the first images for each method."""
    first: dict[str, list[dict]] = {name: [] for name in methods}
    for line in store.lines():
        if len(first[line["method"]]) < _SHEET_IMAGES:
            first[line["method"]].append(line)
        elif all(len(lines) == _SHEET_IMAGES for lines in first.values()):
            break
    for name, lines in first.items():
        if not lines:
            continue
        views = [network.see(images.read(line["position"])) for line in lines]
        titles = [
            f"{line['prediction']} {line['probability']:.0%}; map of {line['target']}"
            for line in lines
        ]
        figures.write_contact_sheet(
            store.folder / f"{name}.png",
            views,
            [store.read(line) for line in lines],
            titles,
            registry.METHODS[name].signed,
        )
