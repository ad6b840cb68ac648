"""Attribution maps of a network over many pictures, from files to files.

    run = experiment.load_run("runs/inception_seed0")    # or network.from_export(...)
    attribute(run, photo_pictures(run, "photos/"), ["grad_cam"], out="maps")

This module connects the rooms, as `experiment` does for training.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import tqdm
from PIL import Image

from seeflower_jax import hints, models, records
from seeflower_jax.attribution import batch, grad_cam, localisation, registry
from seeflower_jax.attribution.store import MapStore
from seeflower_jax.data import augment, loader, photos
from seeflower_jax.data.cache import center_view, upright_size, view_to_picture
from seeflower_jax.data.image_folder import class_name
from seeflower_jax.evaluation import metrics
from seeflower_jax.experiment import Pictures, Run
from seeflower_jax.network import Interface, Network
from seeflower_jax.report import attribution as figures

_SHEET_PICTURES = 24


@dataclasses.dataclass(frozen=True)
class PictureList:
    """Pictures to explain.

    Attributes:
      names: what the index calls them.
      labels: class index of each, None where it is not known.
      read: name's position -> uint8 [h, w, 3]; may raise `photos.UnreadablePicture`.
      size: name's position -> (width, height) in pixels of the picture as it was given,
        upright.
    """

    names: Sequence[str]
    labels: Sequence[int | None]
    read: Callable[[int], np.ndarray]
    size: Callable[[int], tuple[int, int]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, part: slice) -> "PictureList":
        return PictureList(self.names[part], self.labels[part], self.read, self.size)


def split_pictures(run: Run, split: str) -> PictureList:
    """The pictures of a split of the run's data.

    Raises:
      ValueError: if the run's data has no such split.
    """
    pictures = Pictures.open(run.config, run.workdir)
    source = pictures.source
    indices = source.part(split)
    return PictureList(
        [source.keys[i] for i in indices],
        source.labels[indices].tolist(),
        lambda position: pictures.cache[indices[position]],
        lambda position: upright_size(io.BytesIO(source.read(indices[position]))),
    )


def photo_pictures(network: Interface, where: str | os.PathLike) -> PictureList:
    """Picture files; the label is the folder's name where that is a class.

    Raises:
      FileNotFoundError: if there are none.
    """
    paths = photos.find(where)
    classes = {name: label for label, name in enumerate(network.class_names)}
    side = network.shortest_side
    return PictureList(
        [str(path) for path in paths],
        [classes.get(class_name(path.parent.name)) for path in paths],
        lambda position: photos.read(paths[position], side),
        lambda position: upright_size(paths[position]),
    )


def class_index(name: str, class_names: Sequence[str], also: Sequence[str] = ()) -> int:
    """The index of a class from its name or its index as text.

    Raises:
      ValueError: for an unknown name or an index out of range; `also` lists what else
        was possible.
    """
    if name in class_names:
        return list(class_names).index(name)
    if name.isdigit():
        batch.check_target(int(name), len(class_names))
        return int(name)
    hint = hints.did_you_mean(name, [*also, *class_names])
    other = "".join(f"{word!r}, " for word in also)
    raise ValueError(
        f"unknown class {name!r}: expected {other}a class name or an index from 0 to "
        f"{len(class_names) - 1}{hint}"
    )


def target_labels(
    target: str, pictures: PictureList, class_names: Sequence[str]
) -> np.ndarray:
    """The class to explain for each picture, int32 [N]; `registry.PREDICTED` is open.

    Args:
      target: 'predicted', 'true', a class name or a class index.

    Raises:
      ValueError: for an unknown name, an index out of range, or 'true' where a
        picture's class is not known.
    """
    if target == "true":
        if None in pictures.labels:
            name = pictures.names[pictures.labels.index(None)]
            raise ValueError(
                f"the true class of {name} is not known: its folder is not named as a "
                "class; use another target"
            )
        return np.array(pictures.labels, np.int32)
    label = registry.PREDICTED
    if target != "predicted":
        label = class_index(target, class_names, also=("predicted", "true"))
    return np.full(len(pictures), label, np.int32)


def _read(pool, pictures: PictureList, part: Sequence[int]):
    """Reads some pictures at once.

    Returns:
      (positions, pixels, skipped): of those that could be read, and a dict for each
      other.
    """

    def attempt(position):
        try:
            return pictures.read(position)
        except photos.UnreadablePicture as error:
            return str(error)

    read = list(zip(part, pool.map(attempt, part), strict=True))
    good = [(i, pixels) for i, pixels in read if not isinstance(pixels, str)]
    skipped = [
        {"image": pictures.names[i], "error": error}
        for i, error in read
        if isinstance(error, str)
    ]
    return [i for i, _ in good], [pixels for _, pixels in good], skipped


def make_explainer(
    network: Network,
    methods: Sequence[str],
    layer: str | None,
    batch_size: int,
    options: Mapping[str, Mapping] | None = None,
) -> Callable:
    """Builds explain(positions, pixels, targets) for a network and what it takes.

    Returns:
      explain, of up to `batch_size` positions (they seed what is random), as many
      pictures uint8 [h, w, 3] and class indices. It gives, on the host, the cropped
      images [N, size, size, 3], logits, targets and maps by method, as those of
      `batch.make_explainer`.

    Raises:
      ValueError: for an unknown method, or a layer without a map.
    """
    mesh = loader.make_mesh()
    explainer = batch.make_explainer(
        network.spec, methods, layer, network.preprocess, network.size, options
    )
    variables = loader.replicate(network.variables, mesh)
    side = photos.longest_side(network.shortest_side)

    @jax.jit
    def prepare(canvas, sizes, positions):
        # Of the picture alone, so that an export's maps are those of its run.
        key = jax.random.key(0)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
        images = augment.center_crop(
            canvas,
            sizes,
            network.size,
            network.crop,
            keep_aspect=network.keep_aspect,
        )
        return images, keys

    def explain(positions, pixels, targets):
        fill = np.resize(np.arange(len(pixels)), batch_size)  # repeats, to be cut off
        canvas = np.zeros((batch_size, side, side, 3), np.uint8)
        for row, i in zip(canvas, fill, strict=True):
            height, width = pixels[i].shape[:2]
            row[:height, :width] = pixels[i]
        placed = loader.place(
            {
                "canvas": canvas,
                "sizes": np.array([pixels[i].shape[:2] for i in fill], np.int32),
                "positions": np.array(positions, np.int32)[fill],
                "targets": np.array(targets, np.int32)[fill],
            },
            mesh,
        )
        targets = placed.pop("targets")
        images, keys = prepare(**placed)
        found = images, *explainer(variables, images, targets, keys)
        return jax.tree.map(lambda x: x[: len(pixels)], jax.device_get(found))

    return explain


def make_crop_predictor(
    network: Network,
    layer: str | None = None,
    threshold: float = localisation.THRESHOLD,
    whole: float = 0.5,
) -> Callable:
    """Builds a predictor that looks twice, for `experiment.evaluate`.

    The Grad-CAM of the predicted class gives a box, without any labelled boxes; the
    network then sees that part of the picture as large as the whole, as the paper
    proposes.

    Args:
      network: a run's, as a rule.
      layer: of the Grad-CAM; that of `batch.map_layer` by default.
      threshold: share of the map's largest value where the box ends.
      whole: weight of the logits of the whole picture, the rest being the crop's.

    Returns:
      A jitted function of (variables, batch) that gives logits [N, num_classes].
    """
    size, crop, aspect = network.size, network.crop, network.keep_aspect
    layer = layer or batch.map_layer(network.spec, size)

    @jax.jit
    def look_twice(variables, pictures):
        bound = models.bind(network.spec, variables, network.preprocess)
        canvas, sizes = pictures["canvas"], pictures["sizes"]
        images = augment.center_crop(canvas, sizes, size, crop, keep_aspect=aspect)
        maps = grad_cam.grad_cam(bound, images, layer=layer)
        boxes = localisation.bounding_boxes(maps, threshold)
        centers, halves = localisation.squares(boxes, size)
        closer = augment.crop_inside(canvas, sizes, centers, halves, size, crop, aspect)
        return whole * bound(images)[0] + (1 - whole) * bound(closer)[0]

    return look_twice


def attribute(
    network: Network,
    pictures: PictureList,
    methods: Sequence[str],
    out: str | os.PathLike,
    *,
    target: str = "predicted",
    layer: str | None = None,
    options: Mapping[str, Mapping] | None = None,
    batch_size: int = 16,
    dtype: str = "float16",
    overlays: bool = False,
    boxes: bool = True,
) -> list[dict]:
    """Writes maps, their index and contact sheets; goes on with what is there.

    The index has the predicted class and its probability, calibrated by the network's
    temperature, as `classify` gives it.

    Args:
      network: a run, or of `seeflower_jax.network`.
      pictures: to explain.
      methods: keys of `registry.METHODS`.
      out: the folder.
      target: see `target_labels`.
      layer: of class activation maps; that of `batch.map_layer` by default.
      options: of methods, as of `batch.make_explainer`.
      batch_size: pictures at once.
      dtype: of the maps on disk, 'float16' or 'float32'.
      overlays: whether to write a PNG per picture and method too.
      boxes: whether the index has a `box` for each class activation map, [left, top,
        right, bottom] in pixels of the picture as it was given, upright, and overlays
        show it. It is that of `localisation.bounding_boxes`.

    Returns:
      What could not be read: dicts of `image` and `error`.

    Raises:
      ValueError: for unknown methods, layers and targets, and for a folder with maps of
        other settings.
    """
    labels = target_labels(target, pictures, network.class_names)
    registry.check_methods(methods)
    layer = layer or batch.map_layer(network.spec, network.size)
    explain = make_explainer(network, methods, layer, batch_size, options)
    boxed = [name for name in methods if boxes and registry.METHODS[name].layered]
    names = hashlib.sha256("\n".join(pictures.names).encode()).hexdigest()[:12]
    store = MapStore(
        out,
        {
            "network": network.origin,
            "variables": records.variables_hash(network.variables),
            "pictures": f"{len(pictures)} ({names})",
            "methods": list(methods),
            "target": target,
            "layer": layer,
            "options": {k: dict(v) for k, v in (options or {}).items()},
            "dtype": dtype,
            "boxes": boxes,
        },
    )
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        tqdm.tqdm(total=len(pictures), desc="attribution", unit="image") as bar,
    ):
        for shard, indices in store.remaining(len(pictures)):
            bar.update(indices.start - bar.n)
            maps, lines, skipped = {name: [] for name in methods}, [], []
            found_boxes = {name: [] for name in boxed}
            for first in range(0, len(indices), batch_size):
                part = indices[first : first + batch_size]
                positions, pixels, unreadable = _read(pool, pictures, part)
                skipped += unreadable
                if positions:
                    found = explain(positions, pixels, labels[positions])
                    images, logits, targets, values = found
                    lines += _lines(network, pictures, positions, logits, targets)
                    for name in methods:
                        maps[name].append(values[name].astype(dtype))
                    shown = {name: _boxes(values[name]) for name in boxed}
                    sizes = [pictures.size(i) for i in positions] if boxed else []
                    for name in boxed:
                        found_boxes[name] += _in_pictures(network, shown[name], sizes)
                    if overlays:
                        _write_overlays(
                            store, pictures, positions, images, values, shown
                        )
                bar.update(len(part))
                rate = (bar.format_dict["rate"] or 0) * len(methods)
                bar.set_postfix_str(f"{rate:.1f} maps/s", refresh=False)
            maps = {name: np.concatenate(rows) for name, rows in maps.items() if rows}
            store.write(shard, maps, lines, skipped, found_boxes)
    _write_sheets(store, pictures, methods, network)
    return store.skipped()


def _lines(network, pictures, positions, logits, targets) -> list[dict]:
    """What the index says of pictures, one dict each."""
    probabilities = np.exp(metrics.log_softmax(logits / network.temperature))
    return [
        {
            "image": pictures.names[position],
            "position": position,
            "prediction": network.class_names[row.argmax()],
            "probability": round(float(row.max()), 6),
            "target": network.class_names[label],
        }
        for position, row, label in zip(positions, probabilities, targets, strict=True)
    ]


def _boxes(maps: np.ndarray) -> np.ndarray:
    """The box of each map [N, side, side]: left, top, right, bottom in its pixels."""
    return np.asarray(localisation.bounding_boxes(maps))[:, [1, 0, 3, 2]]


def _in_pictures(network, boxes, sizes) -> list[dict]:
    """What the index says of boxes in what the network takes of pictures of `sizes`."""
    found = [
        view_to_picture(box / network.size, size, network.crop, network.keep_aspect)
        for box, size in zip(boxes, sizes, strict=True)
    ]
    return [{"box": box} for box in found]


def _write_overlays(store, pictures, positions, images, maps, boxes) -> None:
    """A PNG per picture and method, in overlays/<method>/."""
    for name, values in maps.items():
        folder = store.folder / "overlays" / name
        folder.mkdir(parents=True, exist_ok=True)
        for row, position in enumerate(positions):
            shown = figures.overlay(
                images[row], values[row], registry.METHODS[name].signed
            )
            if name in boxes:
                shown = figures.draw_box(shown, boxes[name][row])
            stem = pathlib.Path(pictures.names[position]).stem
            Image.fromarray(shown).save(folder / f"{position:06d}_{stem}.png")


def _write_sheets(store, pictures, methods, network) -> None:
    """A contact sheet of the first pictures for each method."""
    first = {name: [] for name in methods}
    for line in store.lines():
        if len(first[line["method"]]) < _SHEET_PICTURES:
            first[line["method"]].append(line)
        elif all(len(lines) == _SHEET_PICTURES for lines in first.values()):
            break
    for name, lines in first.items():
        if not lines:
            continue
        maps = [store.read(line) for line in lines]
        images = [
            center_view(
                Image.fromarray(pictures.read(line["position"])),
                network.size,
                network.crop,
                network.keep_aspect,
            )
            for line in lines
        ]
        titles = [
            f"{line['prediction']} {line['probability']:.0%}; map of {line['target']}"
            for line in lines
        ]
        signed = registry.METHODS[name].signed
        path = store.folder / f"{name}.png"
        figures.write_contact_sheet(path, images, maps, titles, signed)
