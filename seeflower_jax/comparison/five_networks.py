"""A figure of five networks of four frameworks, explained side by side.

    draw("weights/", load("flowers/"), "five_networks.jpg")

The backbones have the weights of Keras' files. Each architecture gets a linear head,
which is fitted to the training images of a few classes.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from seeflower_jax import attribution as attr
from seeflower_jax import models, records
from seeflower_jax.attribution.types import NetworkFunction
from seeflower_jax.comparison import references, squares, vgg_ports
from seeflower_jax.data import decode
from seeflower_jax.data.source import ImageSource
from seeflower_jax.figures import maps
from seeflower_jax.models.preprocess import PREPROCESS
from seeflower_jax.pretrained import loading, published
from seeflower_jax.pretrained.types import Variables
from seeflower_jax.training import ridge

CLASSES = (
    *("sunflower", "lotus", "passion flower", "water lily"),
    *("rose", "hibiscus", "anthurium", "columbine"),
)
SHOWN = ("passion flower", "lotus")
METHODS = {"Grad-CAM": "grad_cam", "guided saliency": "guided_saliency"}
_BATCH_SIZE, _WIDTH = 8, 1200  # images, pixels


@dataclasses.dataclass(frozen=True)
class Backbone:
    """An architecture with a fitted head.

    Attributes:
      spec: of the network of this package.
      variables: its variables.
      weights: the path of Keras' file.
    """

    spec: models.ModelSpec
    variables: Variables
    weights: str


@dataclasses.dataclass(frozen=True)
class Column:
    """A network of the figure.

    Attributes:
      title: its architecture and framework.
      network: the network function.
      layer: for class activation maps.
      side: of its images in pixels.
    """

    title: str
    network: NetworkFunction
    layer: str
    side: int


def columns(backbones: dict[str, Backbone]) -> Iterator[Column]:
    """Yield five networks of four frameworks.

    Args:
      backbones: by the name of the model: 'vgg16', 'vgg19' and 'inception_v3'.
    """
    vgg16, vgg19 = backbones["vgg16"], backbones["vgg19"]
    side, caffe = vgg16.spec.input_size, PREPROCESS["caffe"]
    yield Column(
        "VGG16\nFlax Linen",
        models.bind(vgg16.spec, vgg16.variables),
        vgg16.spec.cam_layer,
        side,
    )
    yield Column(
        "VGG16\nEquinox",
        attr.from_equinox(
            vgg_ports.equinox_vgg(vgg16.spec, vgg16.variables), preprocess=caffe
        ),
        vgg_ports.equinox_cam_layer(vgg16.spec),
        side,
    )
    yield Column(
        "VGG19\nFlax NNX",
        attr.from_nnx(vgg_ports.NnxVgg(vgg19.spec, vgg19.variables), preprocess=caffe),
        "block5",
        side,
    )
    yield Column("VGG19\nKeras", *_keras(vgg19))
    yield Column("Inception-v3\nKeras", *_keras(backbones["inception_v3"]))


def _keras(backbone: Backbone) -> tuple[NetworkFunction, str, int]:
    """Return Keras' network, which reads its own weight file, with the head."""
    import keras

    spec = backbone.spec
    base = references.keras_network(spec.name, spec.input_size, backbone.weights)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    dense = keras.layers.Dense(spec.num_classes)
    model = keras.Model(base.input, dense(pooled))
    head = backbone.variables["params"]["head"]["logits"]
    dense.set_weights([np.asarray(head[name]) for name in ("kernel", "bias")])
    network = attr.from_keras(model, preprocess=PREPROCESS[spec.preprocess])
    return network, spec.cam_layer, spec.input_size


def fit_backbone(
    model: str, weights: str, source: ImageSource, size: int = 0
) -> Backbone:
    """Return a network with published weights and a head for `CLASSES`.

    Args:
      model: 'vgg16', 'vgg19' or 'inception_v3'.
      weights: the folder of Keras' files.
      source: the images; the head is fitted to the split 'train'.
      size: side of the images; 0 is the network's.

    Raises:
      WeightFileError: if the folder lacks the file.
    """
    path = str(pathlib.Path(weights).expanduser() / published.CATALOG[model].name)
    spec = models.get_spec(model, num_classes=len(CLASSES), pooling="average")
    spec = dataclasses.replace(spec, input_size=size or spec.input_size)
    spec, variables, _ = loading.load_pretrained(spec, path)
    indices = np.concatenate([_of_class(source, name, "train") for name in CLASSES])
    names = [source.class_names[label] for label in source.labels[indices]]
    labels = np.array([CLASSES.index(name) for name in names])
    images = _squares(source, indices, spec.input_size)
    features = _features(spec, variables, images)
    fit = ridge.solve(features, labels, len(CLASSES))
    kernel = fit.kernel / np.sqrt(fit.variance + ridge.EPSILON)[:, None]
    head = {"kernel": kernel, "bias": fit.bias - fit.mean @ kernel}
    params = variables["params"] | {
        "head": {"logits": jax.tree.map(lambda x: np.asarray(x, np.float32), head)}
    }
    print(f"fitted the head of {model}", file=sys.stderr)
    return Backbone(spec, {**variables, "params": params}, path)


def _features(
    spec: models.ModelSpec, variables: Variables, images: UInt8[np.ndarray, "n h w 3"]
) -> Float[np.ndarray, "n d"]:
    features = jax.jit(functools.partial(models.features, spec))
    parts = [
        features(variables, images[start : start + _BATCH_SIZE])
        for start in range(0, len(images), _BATCH_SIZE)
    ]
    return np.concatenate(parts)


def _of_class(source: ImageSource, name: str, split: str) -> Int[np.ndarray, "n"]:
    indices = source.indices(split)
    return indices[source.labels[indices] == source.class_names.index(name)]


def _squares(
    source: ImageSource, indices: Iterable[int], side: int
) -> UInt8[np.ndarray, "n side side 3"]:
    view = squares.view_of(side)
    pixels = [
        decode.load_pixels(source.read(i), view.shortest_side, source.keys[i])
        for i in indices
    ]
    return squares.cut(pixels, view)


def draw(
    weights: str, source: ImageSource, path: str | os.PathLike, size: int = 0
) -> None:
    """Draw the figure: an image in each row, a network in each column.

    Args:
      weights: the folder of Keras' files.
      source: the images; those of the figure are the first of the split 'validation'.
      path: of the JPEG.
      size: side of the images; 0 is the networks'.

    Raises:
      WeightFileError: if the folder lacks a file.
    """
    backbones = {
        model: fit_backbone(model, weights, source, size)
        for model in ("vgg16", "vgg19", "inception_v3")
    }
    indices = [_of_class(source, name, "validation")[0] for name in SHOWN]
    targets = jnp.array([CLASSES.index(name) for name in SHOWN])
    photos = _squares(source, indices, backbones["vgg16"].spec.input_size)
    rows = {
        f"{name}\n{method}": [photo]
        for name, photo in zip(SHOWN, photos, strict=True)
        for method in METHODS
    }
    titles = ["image"]
    for column in columns(backbones):
        images = _squares(source, indices, column.side)
        overlays = _explain(column, images, targets)
        for row, overlay in zip(rows.values(), overlays, strict=True):
            row.append(overlay)
        titles.append(column.title)
        print(f"explained {' of '.join(column.title.splitlines())}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, records.replacing(path) as partial:
        png = pathlib.Path(folder, "figure.png")
        maps.write_rows(png, rows, titles)
        with Image.open(png) as figure:
            figure.thumbnail((_WIDTH, _WIDTH))
            figure.convert("RGB").save(partial, "JPEG", quality=85)


def _explain(
    column: Column,
    images: UInt8[np.ndarray, "n h w 3"],
    targets: Int[Array, "n"],
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return the overlays of an image after another, of all methods."""
    values = attr.explain(
        column.network,
        jnp.asarray(images, jnp.float32),
        list(METHODS.values()),
        targets,
        layer=column.layer,
    )
    return [
        maps.overlay(image, np.asarray(values[name][position]), signed=False)
        for position, image in enumerate(images)
        for name in METHODS.values()
    ]
