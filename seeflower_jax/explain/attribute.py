"""Compute attribution maps of many image files, and write them to disk.

    network = load("runs/inception_seed0")
    attribute(network, network.images("photos/"), ["grad_cam"], out="maps")

`explain.store` writes the maps in shards, so memory does not grow with the number of
images. To continue an interrupted call, repeat it. Only one call at a time writes to a
folder.

The device computes a batch while other threads read the next batches, draw the last
overlays and write the last shard. A single thread would write the same files. With
`part`, several machines share the images. `explain.merge` merges their maps.
"""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from seeflower_jax import records
from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution import registry
from seeflower_jax.attribution.types import Layer
from seeflower_jax.data import loader
from seeflower_jax.data.images import Images
from seeflower_jax.explain import identity
from seeflower_jax.explain.inputs import target_labels
from seeflower_jax.explain.parts import WHOLE, Part
from seeflower_jax.explain.shard_writer import ShardWriter
from seeflower_jax.explain.store import MapStore
from seeflower_jax.figures import maps as figures
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network
from seeflower_jax.records.progress_bar import progress_bar

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
    part: Part = WHOLE,
    limit: int | None = None,
) -> list[dict]:
    """Write maps, their index and contact sheets; resume an interrupted call.

    The index has the predicted class and its calibrated probability, as
    `Network.predict` returns them.

    Args:
      network: network from `seeflower_jax.load`.
      images: images from `Network.images` or from a dataset. Overlays and contact
        sheets that an earlier call has written to `out` are left out.
      methods: keys of `attribution.registry.METHODS`.
      out: the folder to write to.
      target: see `inputs.target_labels`.
      layer: layer of class activation maps, several layers, or "head". The default is
        `attribution.batch.map_layer`.
      options: options of methods by name, `{"integrated_gradients": {"steps": 8}}`.
      batch_size: number of images at once, at most all of them, rounded up to a
        multiple of the devices.
      dtype: type of the maps on disk, 'float16' or 'float32'. `MapStore.read` restores
        float16 maps to within 0.05 % of the map's largest magnitude.
      overlays: whether to also write a PNG per image and method.
      boxes: whether the index and the overlays have a `box` for each class activation
        map: [left, top, right, bottom] in pixels of the upright original image. See
        `regions.bounding_boxes`.
      part: part of the shards of 256 images, for one of several machines. A part is
        written to a folder such as `part_2_of_4` in `out`, so that `merge` can then
        merge all parts into `out`.
      limit: number of the first images to explain; all by default.

    Returns:
      A dict of `image` and `error` for each image without maps, because its file cannot
      be read or a map is not finite.

    Raises:
      ValueError: if a method, a layer, the target or the type is unknown, if the batch
        size is below 1, or if the folder has maps of other settings. Also if a part
        cannot be merged into the maps that `out` has, or `out` has logs of another
        program.
      DamagedFileError: if a file of the maps in the folder is damaged.
      FullDiskError: if the disk is full.
      OSError: if a file cannot be written, or the disk of an image fails; the message
        names the file.
      FolderInUseError: if another process writes to the folder.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype is {dtype!r}; expected 'float16' or 'float32'")
    registry.check_methods(methods)
    whole = pathlib.Path(out).expanduser()
    images = identity.without_outputs(images, whole, methods)[:limit]
    labels = target_labels(target, images, network.class_names)
    layer = layer or attribution_batch.map_layer(network.spec, network.view.size)
    batch_size = min(batch_size, max(len(images), 1))
    explainer = Explainer(network, methods, layer, batch_size, options)
    settings = {
        "network": network.origin,
        **identity.of_network(network),
        "images": identity.of_images(images),
        "methods": list(methods),
        "target": target,
        "layer": layer if isinstance(layer, str) else list(layer),
        "options": _all_options(methods, options or {}),
        "dtype": dtype,
        "boxes": boxes,
    }
    if overlays:  # are drawn with the maps, so maps without overlays stay without
        settings["overlays"] = True
    folder = whole if part == WHOLE else whole / part.folder_name
    boxes = boxes and any(registry.METHODS[name].layered for name in methods)
    with records.lock(folder):
        store = MapStore(folder, settings, len(images), part)
        if part != WHOLE:
            store.check_target(whole)
        with ShardWriter(store, network, images.names, overlays, boxes) as writer:
            _write_shards(store, writer, explainer, images, labels, with_sizes=boxes)
        _write_sheets(store, images, methods, network)
    return store.skipped()


def _all_options(
    methods: Sequence[str], options: Mapping[str, Mapping]
) -> dict[str, dict]:
    """Return the options of methods with today's defaults, which may change later."""
    return {
        method: registry.options_of(method) | dict(options.get(method, {}))
        for method in methods
    }


def _write_shards(
    store: MapStore,
    writer: ShardWriter,
    explainer: Explainer,
    images: Images,
    labels: Int32[np.ndarray, " n"],
    with_sizes: bool,
) -> None:
    """Compute and write the shards that the store does not have yet."""
    shards, size = dict(store.remaining()), explainer.batch_size
    batches = loader.read_batches(images, size, shards.values(), with_sizes)
    explained_batches = explainer.stream(batches, labels)
    total = sum(map(len, shards.values()))
    with (
        contextlib.closing(batches),
        contextlib.closing(explained_batches),
        progress_bar("attribution", total, "image") as bar,
    ):
        for shard, positions in shards.items():
            count = -(-len(positions) // size)
            for batch, explained in itertools.islice(explained_batches, count):
                writer.add(batch, explained)
                bar.update(len(batch.positions) + len(batch.errors))
                if explained is not None:
                    rate = bar.n / max(bar.format_dict["elapsed"], 1e-6)
                    maps = f"{rate * len(explained.maps):.2f} maps/s"
                    bar.set_postfix_str(maps, refresh=False)
            writer.write(shard)


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
