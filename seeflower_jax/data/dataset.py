"""Combine a source with its decoded pixels.

dataset = Dataset(source, open_cache(source, shortest_side=320))
dataset.labels("test"), dataset.images("test"), dataset.reader(indices)
"""

import dataclasses
import functools
import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from seeflower_jax.data import decode
from seeflower_jax.data.cache import PixelCache
from seeflower_jax.data.drawing import Mask
from seeflower_jax.data.images import Images
from seeflower_jax.data.loader import ImageReader
from seeflower_jax.data.source import ImageSource
from seeflower_jax.data.synthetic import SyntheticSource


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set of labelled images with their decoded pixels.

    Attributes:
      source: labels, splits and class names of the images.
      cache: decoded images by index.
    """

    source: ImageSource
    cache: PixelCache

    @functools.cached_property
    def content_hash(self) -> str:
        """Return a hash of the encoded images and of the names in all splits."""
        return f"{self.cache.digest.hex()[:12]}, {self.source.describe()['hash']}"

    @functools.cached_property
    def reader(self) -> ImageReader:
        """Return a reader that returns batches of pixels for indices of images."""
        return ImageReader(self.cache)

    def indices(self, split: str) -> Int32[np.ndarray, " m"]:
        """Return the indices of the images of a split.

        Raises:
          ValueError: if the source has no such split.
        """
        return self.source.indices(split)

    def labels(self, split: str) -> Int32[np.ndarray, " m"]:
        """Return the labels of the images of a split."""
        return self.source.labels[self.indices(split)]

    def masks(self, split: str) -> Callable[[int], Mask]:
        """Return a function from a position in a split to the mask of the object.

        Raises:
          ValueError: if the source has no masks.
        """
        source, indices = self.source, self.indices(split)
        if not isinstance(source, SyntheticSource):
            raise ValueError(
                f"{source.name} has no masks of its objects; expected drawn images, "
                "which are the source 'synthetic'"
            )
        return lambda position: source.mask(indices[position])

    def images(self, split: str) -> Images:
        """Return the images of a split, in the order of `indices`."""
        indices = self.indices(split)
        return Images(
            [self.source.keys[i] for i in indices],
            self.labels(split).tolist(),
            lambda position: self.cache[indices[position]],
            lambda position: decode.upright_size(
                lambda: io.BytesIO(self.source.read(indices[position])),
                self.source.keys[indices[position]],
            ),
        )
