"""Compute the features of a frozen network once, and keep them in a run directory.

reader, rows = compute(path, origin, dataset, variables, single, training)
"""

import logging
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.loader import FeatureReader
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import kept
from seeflower_jax.training import ridge


def compute(
    path: pathlib.Path,
    origin: str,
    dataset: Dataset,
    variables: dict,
    single: Evaluator,
    training: Evaluator,
) -> tuple[FeatureReader, Float[np.ndarray, "m c"]]:
    """Return the features of all training and validation images.

    Args:
      path: the file that has the features, or gets them.
      origin: what the features are computed from, except the views of `training`.
      dataset: the images.
      variables: of the network.
      single: evaluator with the view of a prediction, for validation images.
      training: evaluator for training images; its first look is the one of `single`.
        If all looks are `ridge.MAX_VIEWS` or more, `single` takes its place.

    Returns:
      A reader of the single view of each image, and the features of all looks at the
      training images. All looks at an image are consecutive rows.
    """
    train = dataset.indices("train").astype(np.int64)
    validation = np.asarray(dataset.source.splits.get("validation", []), np.int64)
    count = len(train) * len(training.looks)
    if training is not single and count >= ridge.MAX_VIEWS:
        logging.info(
            "the head is solved on one view of each image, because all %d views are "
            "more than %d",
            count,
            ridge.MAX_VIEWS - 1,
        )
        training, count = single, len(train)
    looks = training.looks

    def batches() -> Iterator[Float[np.ndarray, "b c"]]:
        for evaluator, indices in ((training, train), (single, validation)):
            if len(indices):
                name = "features"
                for rows in evaluator.features(
                    variables, dataset.reader, indices, name
                ):
                    yield rows.reshape(-1, rows.shape[-1])

    features = kept.features(
        path, f"{origin}, {looks}", count + len(validation), batches
    )
    reader = FeatureReader(
        features,
        np.concatenate([train, validation]),
        np.r_[0 : count : len(looks), count : len(features)],
    )
    return reader, features[:count]
