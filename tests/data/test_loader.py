"""Order and batches."""

import numpy as np
import pytest

from seeflower_jax import sharding
from seeflower_jax.data import loader
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images

LABELS = np.arange(50, dtype=np.int32) % 5
FEATURES = np.arange(50, dtype=np.float32)[:, None]
TRAIN = np.arange(10, 37)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


def _batches(mesh, start, stop, seed=(0, 0)):
    reader = loader.FeatureReader(FEATURES, np.arange(50), np.arange(50))
    train = loader.TrainLoader(reader, LABELS, TRAIN, 4, mesh, seed)
    assert train.steps_per_epoch == 6
    return list(train(start, stop))


def test_epoch_order_is_a_function_of_seed_and_epoch():
    orders = [loader.epoch_order((s,), e, 27) for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(27)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders[1], loader.epoch_order((0,), 1, 27))


def test_batches_from_the_middle_are_those_of_the_whole(mesh):
    whole, rest = _batches(mesh, 0, 14), _batches(mesh, 9, 14)
    assert len(whole) == 14 and len(rest) == 5
    for ours, theirs in zip(rest, whole[9:], strict=True):
        np.testing.assert_array_equal(ours["indices"], theirs["indices"])
    # 6 full batches per epoch, with no image twice in an epoch.
    epoch = np.concatenate([batch["indices"] for batch in whole[:6]])
    assert len(set(epoch.tolist())) == 24 and set(epoch.tolist()) <= set(TRAIN)
    for batch in whole:
        np.testing.assert_array_equal(batch["labels"], LABELS[batch["indices"]])
        np.testing.assert_array_equal(batch["features"][:, 0], batch["indices"])


def test_loaders_take_turns_by_epoch(mesh):
    """All loaders give the same examples, and each gives its own features."""
    readers = [
        loader.FeatureReader(FEATURES + shift, np.arange(50), np.arange(50))
        for shift in (0, 100)
    ]
    loaders = tuple(
        loader.TrainLoader(reader, LABELS, TRAIN, 4, mesh, (0, 0)) for reader in readers
    )
    batches = loader.InTurns(loaders)
    whole, expected = list(batches(0, 20)), _batches(mesh, 0, 20)
    assert batches.steps_per_epoch == 6 and len(whole) == 20
    for step, (ours, theirs) in enumerate(zip(whole, expected, strict=True)):
        np.testing.assert_array_equal(ours["indices"], theirs["indices"])
        shift = 100 * (step // 6 % 2)
        np.testing.assert_array_equal(ours["features"], theirs["features"] + shift)
    for ours, theirs in zip(batches(9, 20), whole[9:], strict=True):
        np.testing.assert_array_equal(ours["features"], theirs["features"])


def test_a_batch_with_one_more_array(mesh):
    reader = loader.FeatureReader(FEATURES, np.arange(50), np.arange(50))
    annotated = loader.Annotated(reader, "teacher", FEATURES * 2)
    batch = next(loader.TrainLoader(annotated, LABELS, TRAIN, 4, mesh, (0,))(0, 1))
    np.testing.assert_array_equal(batch["teacher"], batch["features"] * 2)


def test_evaluation_sees_every_example_in_order(mesh):
    reader = loader.FeatureReader(FEATURES, np.arange(50), np.arange(50))
    batches = list(loader.eval_batches(reader, TRAIN, 8, mesh))
    rows = np.concatenate([batch["features"] for batch in batches])
    assert rows.shape == (32, 1)
    np.testing.assert_array_equal(rows[:27, 0], TRAIN)


def test_images_of_different_sizes_share_a_canvas(mesh):
    class Cache:
        sizes = np.array([[2, 3], [4, 2]], np.int32)

        def __getitem__(self, index):
            return np.full((*self.sizes[index], 3), index + 1, np.uint8)

    batch = loader.ImageReader(Cache())(np.array([1, 0]))
    assert batch["canvas"].shape == (2, 4, 3, 3)
    assert batch["canvas"][0, :4, :2].min() == 2 and batch["canvas"][0, :, 2].max() == 0
    np.testing.assert_array_equal(batch["sizes"], [[4, 2], [2, 3]])


def test_batch_larger_than_the_training_set(mesh):
    reader = loader.FeatureReader(FEATURES, np.arange(50), np.arange(50))
    with pytest.raises(ValueError, match="batch of 64 is more than the 27"):
        loader.TrainLoader(reader, LABELS, TRAIN, 64, mesh, (0,))


def test_image_files_are_read_in_order_and_unreadable_ones_are_named():
    def read(position):
        if position == 3:
            raise UnreadableImage("rose.jpg")
        return np.full((2, 2, 3), position, np.uint8)

    images = Images(list("abcdefg"), [None] * 7, read, lambda position: (2, 2))
    batches = list(loader.read_batches(images, 2))
    assert [batch.positions for batch in batches] == [[0, 1], [2], [4, 5], [6]]
    assert [str(error) for error in batches[1].errors.values()] == ["rose.jpg"]
    pixels = [image[0, 0, 0] for batch in batches for image in batch.pixels]
    assert pixels == [0, 1, 2, 4, 5, 6]
    batches = list(loader.read_batches(images, 4, [range(4, 7)]))
    assert [batch.positions for batch in batches] == [[4, 5, 6]]
    some = images[[5, 0]]
    assert some.names == ["f", "a"] and some.read(0)[0, 0, 0] == 5
    assert images[1:3].names == ["b", "c"] and images[1:3][1:].read(0)[0, 0, 0] == 2
