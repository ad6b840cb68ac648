"""Logits of many pictures, in batches on all devices.

predict = make_predictor(spec, config.eval)
logits = run(predict, variables, reader, indices, 32, mesh)   # [N, num_classes]
"""

import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from seeflower_jax import models
from seeflower_jax.data import augment, loader


def keeps_aspect(view) -> bool:
    """Whether pictures are cropped to squares, as they are unless `view` says that they
    are squashed.

    Args:
      view: a config with or without `keep_aspect`.
    """
    return view.get("keep_aspect", True)


def make_predictor(
    spec: models.ModelSpec, view, preprocess: Callable | None = None, test_time=None
) -> Callable:
    """Builds a jitted predict(variables, batch) -> logits [N, num_classes].

    Args:
      spec: the network.
      view: config of the picture that the network gets: `size` in pixels (0 is the
        network's), `crop`, the central square's share of the shortest side, and
        perhaps `keep_aspect` (see `augment.center_crop`).
      preprocess: applied to cropped images (whitening).
      test_time: config of the views whose logits are averaged instead: `views`, pairs
        of size and crop, and `hflip`, whether each is also seen mirrored.
    """
    views = [(view.size, view.crop)] if test_time is None else test_time.views
    mirrors = (False, True) if test_time is not None and test_time.hflip else (False,)

    @jax.jit
    def predict(variables, batch):
        if "features" in batch:
            return models.apply_head(spec, variables, batch["features"])
        network = models.bind(spec, variables, preprocess)
        total = 0.0
        for (size, crop), mirror in itertools.product(views, mirrors):
            images = augment.center_crop(
                batch["canvas"],
                batch["sizes"],
                size or spec.input_size,
                crop,
                mirror,
                keeps_aspect(view),
            )
            total += network(images)[0]
        return total / (len(views) * len(mirrors))

    return predict


def make_feature_extractor(
    spec: models.ModelSpec, view, preprocess: Callable | None = None
) -> Callable:
    """Builds a jitted extract(variables, batch) -> the head's inputs [N, C].

    Args:
      spec: the network.
      view, preprocess: as `make_predictor`.
    """
    size = view.size or spec.input_size

    @jax.jit
    def extract(variables, batch):
        images = augment.center_crop(
            batch["canvas"],
            batch["sizes"],
            size,
            view.crop,
            keep_aspect=keeps_aspect(view),
        )
        if preprocess:
            images = preprocess(images)
        return models.features(spec, variables, images)

    return extract


def stream(
    predict: Callable, variables, reader, indices, batch_size: int, mesh
) -> Iterator:
    """Rows of `predict` for all of `indices`, on the host, a batch at a time.

    Args:
      predict: jitted function of (variables, batch) that gives rows, or a dict of them.
      variables: replicated over the mesh.
      reader, indices, batch_size, mesh: as `loader.eval_batches`.
    """
    left = len(indices)
    for batch in loader.eval_batches(reader, indices, batch_size, mesh):
        out = multihost_utils.process_allgather(predict(variables, batch), tiled=True)
        yield jax.tree.map(lambda rows, left=left: np.asarray(rows)[:left], out)
        left -= batch_size


def run(*args):
    """All rows of `stream`: float32 [N, ...], or a dict of such."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *stream(*args))
