"""Open a source of labelled images by name.

source = load_source(DataSettings(source="oxford_flowers102", dir="flowers"))
"""

import dataclasses
from collections.abc import Callable

from seeflower_jax import hints
from seeflower_jax.data import image_folder, oxford_flowers, synthetic
from seeflower_jax.data.balance import NONE
from seeflower_jax.data.resident import AUTO
from seeflower_jax.data.source import ImageSource


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The images that a run uses, and their location.

    Attributes:
      source: name of the source, a key of `SOURCES`.
      dir: folder of the files; '' downloads the official files.
      split: how the images are split; each source defines its own values.
      balance: how training samples uneven classes, one of `balance.BALANCES`.
      logit_adjustment: strength of the adjustment of logits by class counts in
        training; 0 is off.
      verify: whether hashes and counts of the official files are checked.
      cache_dir: folder of downloads and decoded images; '' is ~/.cache/seeflower_jax.
      shortest_side: shortest side of the decoded images in pixels.
      on_device: whether training images live on the devices, one of
        `resident.CHOICES`.
      species: number of drawn species, only for the source `synthetic`.
      images_per_class: numbers of images to draw of each species for training,
        validation and test, only for `synthetic`.
      seed: seed of the drawn images, only for `synthetic`.
    """

    source: str
    dir: str = ""
    split: str = "official"
    balance: str = NONE
    logit_adjustment: float = 0.0
    verify: bool = True
    cache_dir: str = ""
    shortest_side: int = 320
    on_device: str = AUTO
    species: int = 16
    images_per_class: tuple[int, ...] = (10, 5, 25)
    seed: int = 0


SOURCES: dict[str, Callable[[DataSettings], ImageSource]] = {
    "oxford_flowers102": lambda settings: oxford_flowers.load(
        settings.dir or None,
        settings.split,
        settings.verify,
        settings.cache_dir or None,
    ),
    "folder": lambda settings: image_folder.load(settings.dir, settings.split),
    "synthetic": lambda settings: synthetic.load(
        settings.split, settings.species, settings.images_per_class, settings.seed
    ),
}


def load_source(settings: DataSettings) -> ImageSource:
    """Return the labelled images that the settings describe.

    Raises:
      ValueError: if the source is unknown; sources may raise other errors too.
    """
    if settings.source not in SOURCES:
        hint = hints.did_you_mean(settings.source, SOURCES)
        raise ValueError(
            f"unknown data.source {settings.source!r}: known are "
            f"{sorted(SOURCES)}{hint}"
        )
    return SOURCES[settings.source](settings)
