"""Draw a data set of flowers, with a mask of the flower in each image.

    source = load("target", species_count=16, images_per_class=(10, 5, 20))
    source.read(0), source.mask(0)

The classes are species; `drawing` draws their images.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from seeflower_jax.data.drawing import MAX_SPECIES, SPLITS, Mask, draw, species
from seeflower_jax.data.source import ImageSource

NAME = "synthetic"
PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class SyntheticSource(ImageSource):
    """A data set of drawn images.

    Attributes:
      mask: function from an index to the mask of the flower.
    """

    mask: Callable[[int], Mask]


def load(
    split: str, species_count: int, images_per_class: Sequence[int], seed: int = 0
) -> SyntheticSource:
    """Return images of the first species of a split.

    Args:
      split: one of `SPLITS`.
      species_count: the number of species, which are the classes.
      images_per_class: the numbers of images of a species for training, validation and
        test; 0 omits the split.
      seed: the seed of the images; the species do not depend on it.

    Raises:
      ValueError: if the split is unknown or has fewer species.
    """
    if split not in SPLITS or not 0 < species_count <= MAX_SPECIES:
        raise ValueError(
            f"cannot draw {species_count} species of split {split!r}; expected 1 to "
            f"{MAX_SPECIES} species of a split in {SPLITS}"
        )
    kinds = [species(split, number) for number in range(species_count)]
    per_class = sum(images_per_class)

    def draw_at(index):
        return draw(kinds[index // per_class], seed, index % per_class)

    def read(index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(draw_at(index)[0]).save(file, "PNG", compress_level=1)
        return file.getvalue()

    number = np.arange(species_count * per_class, dtype=np.int32) % per_class
    starts = np.cumsum([0, *images_per_class])
    splits = {
        name: np.flatnonzero((first <= number) & (number < end)).astype(np.int32)
        for name, first, end in zip(PARTS, starts, starts[1:], strict=False)
        if first < end
    }
    # The fingerprint includes the first image, so it changes if the drawing changes.
    content = (split, species_count, tuple(images_per_class), seed, read(0))
    return SyntheticSource(
        name=f"{NAME}_{split}",
        fingerprint=hashlib.sha256(repr(content).encode()).hexdigest()[:12],
        class_names=tuple(kind.name for kind in kinds),
        keys=tuple(
            f"{kind.name}_{i:03d}.png" for kind in kinds for i in range(per_class)
        ),
        labels=np.repeat(np.arange(species_count, dtype=np.int32), per_class),
        splits=splits,
        read=read,
        mask=lambda index: draw_at(index)[1],
    )
