"""Logits of many pictures, in batches on all devices.

predict = make_predictor(spec, config.eval)
logits = run(predict, variables, reader, indices, 32, mesh)   # [N, num_classes]
"""

import itertools
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from seeflower_jax import models
from seeflower_jax.data import augment, loader


def make_predictor(
    spec: models.ModelSpec, view, preprocess: Callable | None = None, test_time=None
) -> Callable:
    """Builds a jitted predict(variables, batch) -> logits [N, num_classes].

    Args:
      spec: the network.
      view: config of the picture that the network gets: `size` in pixels (0 is the
        network's) and `crop`, the central square's share of the shortest side.
      preprocess: applied to cropped images (whitening).
      test_time: config of the views whose logits are averaged instead: `views`, pairs
        of size and crop, and `hflip`, whether each is also seen mirrored.
    """
    views = [(view.size, view.crop)] if test_time is None else test_time.views
    mirrors = (False, True) if test_time is not None and test_time.hflip else (False,)

    @jax.jit
    def predict(variables, batch):
        if "features" in batch:
            return models.classify(spec, variables, batch["features"])
        network = models.bind(spec, variables, preprocess)
        total = 0.0
        for (size, crop), mirror in itertools.product(views, mirrors):
            images = augment.center_crop(
                batch["canvas"], batch["sizes"], size or spec.input_size, crop, mirror
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
        images = augment.center_crop(batch["canvas"], batch["sizes"], size, view.crop)
        if preprocess:
            images = preprocess(images)
        return models.features(spec, variables, images)

    return extract


def run(
    predict: Callable, variables, reader, indices, batch_size: int, mesh, progress=None
) -> np.ndarray:
    """Rows of `predict` for all of `indices`, on the host, float32 [N, ...].

    Args:
      predict: function of (variables, batch), jitted.
      variables: replicated over the mesh.
      reader, indices, batch_size, mesh: as `loader.eval_batches`.
      progress: called with the number of pictures done after each batch.
    """
    rows = []
    for batch in loader.eval_batches(reader, indices, batch_size, mesh):
        out = predict(variables, batch)
        rows.append(np.asarray(multihost_utils.process_allgather(out, tiled=True)))
        if progress:
            progress(min(batch_size, len(indices) - (len(rows) - 1) * batch_size))
    return np.concatenate(rows)[: len(indices)]
