"""A small network and small images, for tests of jobs."""

import numpy as np

from seeflower_jax import models
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images
from seeflower_jax.data.view import View
from seeflower_jax.inference.network import Network
from tests import fixtures


def spec(**changes) -> models.ModelSpec:
    """Return the spec of the baseline network."""
    return models.get_spec("baseline", num_classes=4, hidden=(8,), **changes)


def baseline(variables=None, **options) -> Network:
    """Return the baseline network at the size of its images, which is quick."""
    return Network(
        spec=spec(),
        variables=variables or fixtures.random_variables(spec(), 0),
        view=View(32, 32, **options),
        class_names=tuple("abcd"),
        temperature=0.5,
        origin="here",
    )


def images(count: int, unreadable: tuple[int, ...] = (), prepare=lambda _: None):
    """Return images of random pixels; `prepare` is called before each read."""

    def read(position):
        prepare(position)
        if position in unreadable:
            raise UnreadableImage(f"{position}.png cannot be read as an image: it is")
        rng = np.random.default_rng(position)
        return rng.integers(0, 256, (32, 40, 3), np.uint8)

    names = [f"{position}.png" for position in range(count)]
    return Images(names, [None] * count, read, lambda position: (80 + position, 64))
