"""Packed batches: their content, their memory, and the crops that they give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import sharding
from seeflower_jax.data import loader
from seeflower_jax.data.augmentation import Augmentation, augment
from seeflower_jax.data.buffers import Buffers
from seeflower_jax.data.packed import PackedReader

COUNT = 24
INDICES = np.arange(2, 22)


class Images:
    """Images of random pixels; an image that is not read is the largest."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.sizes = rng.integers(20, 40, (COUNT, 2)).astype(np.int32)
        self.sizes[0] = 60, 60
        self.pixels = [
            rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in self.sizes
        ]

    def __getitem__(self, index):
        return self.pixels[index]


@pytest.fixture(scope="module")
def images():
    return Images()


def test_memory_is_free_when_no_array_refers_to_it():
    buffers = Buffers()
    taken = buffers.take((4, 5, 3))
    taken[:] = 7
    part = taken[1:3]
    del taken
    buffers.take((4, 5, 3))[:] = 1
    assert (part == 7).all() and len(buffers) == 2
    del part
    first, second, large = (buffers.take((k, 5, 3)) for k in (4, 2, 9))
    assert len(buffers) == 3 and large.shape == (9, 5, 3)
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize("kind", ["pixels", "canvas"])
def test_batches_keep_their_pixels_while_others_are_made(images, kind):
    reader = loader.ImageReader(images)
    if kind == "pixels":
        reader = PackedReader(images, INDICES)
        assert reader(INDICES[:2])[kind].shape == (
            2,
            images.sizes[2:22].prod(1).max(),
            3,
        )
    labels = np.zeros(COUNT, np.int32)
    train = loader.TrainLoader(reader, labels, INDICES, 4, sharding.make_mesh(), (0,))
    for number, batch in enumerate(list(train(0, 12))):
        sizes = np.asarray(batch["sizes"])
        np.testing.assert_array_equal(sizes, images.sizes[batch["indices"]])
        for row, index in zip(np.asarray(batch[kind]), batch["indices"], strict=True):
            image = images[int(index)]
            height, width = image.shape[:2]
            if kind == "pixels":
                seen = row[: height * width].reshape(image.shape)
            else:
                seen = row[:height, :width]
            np.testing.assert_array_equal(seen, image, f"batch {number}")


def test_buffers_are_few(images):
    reader = PackedReader(images, INDICES)
    labels = np.zeros(COUNT, np.int32)
    train = loader.TrainLoader(reader, labels, INDICES, 4, sharding.make_mesh(), (0,))
    for batch in train(0, 60):
        jax.block_until_ready(batch)
    # The batches made ahead, the batch in use, and the batch that replaces it.
    assert len(reader._buffers) <= loader.THREADS + 3


def test_crops_of_all_forms_are_the_same_bits(images):
    indices = np.array([3, 9, 4, 20])
    sizes = images.sizes[indices]
    augmentation = Augmentation(
        16, rotation=30, shear=0.2, hflip=True, crop_area=(0.2, 1.0), contrast=0.2
    )
    keys = jax.random.split(jax.random.key(0), len(indices))
    compute = jax.jit(augment, static_argnames="augmentation")
    canvas = loader.to_canvas([images[i] for i in indices], 48, 56)["canvas"]
    expected = compute(keys, canvas, sizes, augmentation)
    rows = PackedReader(images, INDICES)(indices)["pixels"]
    store = np.concatenate([images[i].reshape(-1, 3) for i in range(COUNT)])
    starts = np.cumsum([0, *images.sizes.prod(1)])[indices]
    forms = {"rows": (rows, None), "store": (store, jnp.asarray(starts, jnp.int32))}
    for name, (pixels, places) in forms.items():
        crops = compute(keys, pixels, sizes, augmentation, starts=places)
        np.testing.assert_array_equal(crops, expected, name)
