"""Batches of images for `augment`, with the pixels of each image contiguous.

reader = PackedReader(cache, indices)
batch = reader(indices[:32])        # {'pixels' [32, a, 3], 'sizes' [32, 2]}
images = augment(keys, batch["pixels"], batch["sizes"], augmentation)
"""

import numpy as np
from jaxtyping import Int

from seeflower_jax.data.buffers import Buffers
from seeflower_jax.data.loader import PixelsByIndex


class PackedReader:
    """A reader of images for `augment`, with the pixels of each image in one row.

    Each image is copied in one operation. The rows of all batches have the size of the
    largest image, so a step is compiled once. The rest of a row is not written, so
    smaller rows for some batches would save no time here.

    Args:
      cache: the images.
      indices: the indices of the images that are read.
    """

    def __init__(self, cache: PixelsByIndex, indices: Int[np.ndarray, " n"]):
        self._cache, self._buffers = cache, Buffers()
        self._length = int(cache.sizes[indices].prod(axis=1).max())

    def __call__(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        pixels = self._buffers.take((len(indices), self._length, 3))
        for row, index in zip(pixels, indices, strict=True):
            image = self._cache[index].reshape(-1, 3)
            row[: len(image)] = image
        return {"pixels": pixels, "sizes": self._cache.sizes[indices]}
