"""Images to batches.

source = load(config.data)
"""

import difflib

from seeflower_jax.data import oxford_flowers
from seeflower_jax.data.source import ImageSource

_SOURCES = {"oxford_flowers102": oxford_flowers.load}


def load(config) -> ImageSource:
    """The labelled pictures that `config.data` describes.

    Args:
      config: `source` (a key of the registry), `dir` ('' downloads), `split`, `verify`,
        `cache_dir` ('' is the default).

    Raises:
      ValueError: for an unknown source, and what the source raises.
    """
    if config.source not in _SOURCES:
        near = difflib.get_close_matches(config.source, _SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown data.source {config.source!r}: known are {sorted(_SOURCES)}{hint}"
        )
    return _SOURCES[config.source](
        config.dir or None, config.split, config.verify, config.cache_dir or None
    )
