"""Images to batches.

source = load(config.data)
"""

from seeflower_jax import hints
from seeflower_jax.data import image_folder, oxford_flowers, synthetic
from seeflower_jax.data.source import ImageSource

# What each source takes of `config.data`.
_SOURCES = {
    "oxford_flowers102": lambda config: oxford_flowers.load(
        config.dir or None, config.split, config.verify, config.cache_dir or None
    ),
    "folder": lambda config: image_folder.load(config.dir, config.split),
    "synthetic": lambda config: synthetic.load(
        config.split, config.species, config.pictures, config.seed
    ),
}


def load(config) -> ImageSource:
    """The labelled pictures that `config.data` describes.

    Args:
      config: `source` (a key of the registry) and what that source takes; other values
        do not matter to it.

    Raises:
      ValueError: for an unknown source, and what the source raises.
    """
    if config.source not in _SOURCES:
        hint = hints.did_you_mean(config.source, _SOURCES)
        raise ValueError(
            f"unknown data.source {config.source!r}: known are {sorted(_SOURCES)}{hint}"
        )
    return _SOURCES[config.source](config)
