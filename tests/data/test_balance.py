"""Balanced sampling of uneven classes."""

import numpy as np
import pytest

from seeflower_jax import sharding
from seeflower_jax.data.balance import balanced_order
from seeflower_jax.data.loader import TrainLoader

COUNTS = (60, 20, 9, 1)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))


def test_classes_are_equally_frequent_and_images_within_them():
    in_class_0 = set()
    for epoch in range(20):
        rows, repeats = balanced_order((3, 1), epoch, LABELS)
        assert len(rows) == len(LABELS) == 90
        assert sorted(np.bincount(LABELS[rows])) == [22, 22, 23, 23]
        times = np.bincount(rows, minlength=90)
        for label in range(4):
            of_class = times[label == LABELS]
            assert of_class.max() - of_class.min() <= 1
        # The repeats of an image are numbered from 0.
        numbered = sorted(zip(rows.tolist(), repeats.tolist(), strict=True))
        assert numbered == [(r, k) for r in range(90) for k in range(times[r])]
        in_class_0 |= set(rows[LABELS[rows] == 0].tolist())
    assert len(in_class_0) == 60  # Each image of the large class gets its turn.


def test_order_is_a_function_of_seed_and_epoch():
    first = balanced_order((0, 1), 5, LABELS)
    np.testing.assert_array_equal(first, balanced_order((0, 1), 5, LABELS))
    for seed, epoch in (((0, 2), 5), ((0, 1), 6)):
        assert (first[0] != balanced_order(seed, epoch, LABELS)[0]).any()


def _loader(balance: str) -> TrainLoader:
    def reader(indices):
        return {"features": indices[:, None].astype(np.float32)}

    indices = np.arange(90)[::-1]
    mesh = sharding.make_mesh()
    return TrainLoader(reader, LABELS, indices, 16, mesh, (0, 1), balance)


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_batches_after_a_resume_are_the_same(balance):
    loader = _loader(balance)
    assert loader.steps_per_epoch == 5
    batches = list(loader(0, 12))
    for start in (1, 4, 5, 11):
        for before, after in zip(batches[start:], loader(start, 12), strict=True):
            for name in ("features", "labels", "indices"):
                np.testing.assert_array_equal(before[name], after[name])


def test_batches_are_balanced_and_repeats_have_other_random_numbers():
    epoch = list(_loader("sampling")(0, 5))
    labels = np.concatenate([batch["labels"] for batch in epoch])
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(shares, 0.25, atol=0.1)  # 10 rows are in no full batch
    numbers = np.concatenate([batch["indices"] for batch in epoch])
    images = np.concatenate([batch["features"] for batch in epoch])[:, 0]
    assert len(set(numbers.tolist())) == len(numbers) and len(set(images)) < len(images)
    np.testing.assert_array_equal(numbers % len(LABELS), images)
    plain = list(_loader("none")(0, 5))
    numbers = np.concatenate([batch["indices"] for batch in plain])
    images = np.concatenate([batch["features"] for batch in plain])[:, 0]
    np.testing.assert_array_equal(numbers, images)
