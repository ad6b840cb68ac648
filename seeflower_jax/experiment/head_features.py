"""Compute the features of a frozen network once, and keep them in a run directory.

reader, rows = compute(path, origin, dataset, variables, single, training)
"""

import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.loader import FeatureReader
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import kept


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

    Returns:
      A reader of the single view of each image, and the features of all looks at the
      training images. All looks at an image are consecutive rows.
    """
    train = dataset.indices("train").astype(np.int64)
    validation = np.asarray(dataset.source.splits.get("validation", []), np.int64)
    looks = training.looks
    count = len(train) * len(looks)

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
