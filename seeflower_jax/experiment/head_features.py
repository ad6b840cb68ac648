"""Compute the features of a frozen network once, and keep them in a run directory.

reader, rows = compute(path, origin, dataset, variables, single, training)

draw = make_draws(evaluator, augmentation, key)
readers, reader = compute_draws(..., evaluator, [draw(0), draw(1)])
"""

import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seeflower_jax import models
from seeflower_jax.data import augmentation as augmentations
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.loader import Annotated, Batch, FeatureReader, Reader
from seeflower_jax.evaluation.evaluator import Compute, Evaluator
from seeflower_jax.experiment import kept
from seeflower_jax.training import ridge
from seeflower_jax.training.step import example_keys


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
      path: the file of the features, which is written if necessary.
      origin: what the features are computed from, except the views of `training`.
      dataset: the images.
      variables: the variables of the network.
      single: evaluator with the view of a prediction, for validation images.
      training: evaluator for training images. Its first look is the look of `single`.
        If the training images have `ridge.MAX_VIEWS` or more looks in total, `single`
        replaces `training`.

    Returns:
      A reader of the single view of each image, and the features of all looks at the
      training images. All looks at an image are consecutive rows.
    """
    train = dataset.indices("train").astype(np.int64)
    validation = np.asarray(dataset.source.splits.get("validation", []), np.int64)
    count = len(train) * len(training.looks)
    if training is not single and count >= ridge.MAX_VIEWS:
        logging.info(
            "the head is solved on one view of each image, because there are %d views "
            "in total, more than %d",
            count,
            ridge.MAX_VIEWS - 1,
        )
        training, count = single, len(train)
    looks = training.looks

    def batches(first: int) -> Iterator[Float[np.ndarray, "b c"]]:
        for evaluator, indices, start in (
            (training, train, first // len(looks)),
            (single, validation, max(0, first - count)),
        ):
            if start < len(indices):
                parts = evaluator.features(
                    variables, dataset.reader, indices, "features", start
                )
                yield from (rows.reshape(-1, rows.shape[-1]) for rows in parts)

    features = kept.features(
        path, f"{origin}, {looks}", count + len(validation), batches
    )
    reader = FeatureReader(
        features,
        np.concatenate([train, validation]),
        np.r_[0 : count : len(looks), count : len(features)],
    )
    return reader, features[:count]


def make_draws(
    evaluator: Evaluator, augmentation: augmentations.Augmentation, key: PRNGKeyArray
) -> Callable[[int], Compute]:
    """Return a function from the number of a random draw to a function of features.

    Args:
      evaluator: evaluator with the network.
      augmentation: augmentation of the images.
      key: key of all draws.

    Returns:
      A function from a number to a jitted function of (variables, batch). The jitted
      function returns the features [b, c] of augmented images, which depend on the key,
      the number and the `indices` of the batch.
    """

    @jax.jit
    def compute(
        key: PRNGKeyArray, variables: dict, batch: Batch
    ) -> Float[Array, "b c"]:
        keys = example_keys(key, batch["indices"])
        images = augmentations.augment(
            keys, batch["canvas"], batch["sizes"], augmentation
        )
        if evaluator.preprocess:
            images = evaluator.preprocess(images)
        return models.features(evaluator.spec, variables, images)

    return lambda number: functools.partial(compute, jax.random.fold_in(key, number))


def compute_draws(
    path: pathlib.Path,
    origin: str,
    dataset: Dataset,
    variables: dict,
    evaluator: Evaluator,
    draws: Sequence[Compute],
) -> tuple[list[Reader], Reader]:
    """Return features of several random draws of all training images.

    Args:
      path: the file of the features of the validation images. The file of draw 0 has
        `_draw0` before its ending. Files are written if necessary.
      origin: what the features are computed from.
      dataset: the images.
      variables: the variables of the network.
      evaluator: evaluator with the view of a prediction, for validation images.
      draws: the draws, from `make_draws`.

    Returns:
      A reader for each draw, and a reader of the single view of the validation images.
      Without validation images, the second value is the reader of the first draw.
    """
    readers = [
        _one_row_each(
            path.with_stem(f"{path.stem}_draw{number}"),
            f"{origin}, draw {number}",
            dataset.indices("train"),
            functools.partial(_stream_draw, evaluator, draw, variables, dataset),
        )
        for number, draw in enumerate(draws)
    ]
    if "validation" not in dataset.source.splits:
        return readers, readers[0]
    validation = dataset.indices("validation")

    def batches(first: int) -> Iterator[Float[np.ndarray, "b c"]]:
        rows = evaluator.features(
            variables, dataset.reader, validation, "features", first
        )
        return (features[:, 0] for features in rows)

    return readers, _one_row_each(path, origin, validation, batches)


def _stream_draw(
    evaluator: Evaluator, draw: Compute, variables: dict, dataset: Dataset, first: int
) -> Iterator[Float[np.ndarray, "b c"]]:
    """Yield the features of a draw of training images, from a number on, in batches."""
    numbers = np.arange(len(dataset.source.labels), dtype=np.int32)
    reader = Annotated(dataset.reader, "indices", numbers)
    return evaluator.stream(
        draw,
        variables,
        reader,
        dataset.indices("train"),
        "augmented features",
        first,
    )


def _one_row_each(
    path: pathlib.Path,
    origin: str,
    indices: Int[np.ndarray, " n"],
    batches: Callable[[int], Iterator[Float[np.ndarray, "b c"]]],
) -> Reader:
    """Return a reader of features with one row for each index, computed if missing."""
    features = kept.features(path, origin, len(indices), batches)
    return FeatureReader(features, indices, np.arange(len(indices)))
