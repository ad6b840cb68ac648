"""The page on backward rules."""

import doctest
import functools

import jax.numpy as jnp
import numpy as np

from seeflower_jax import models
from tests import fixtures, harness


def test_its_code_runs():
    spec = models.get_spec("small", num_classes=3, width=0.1, input_size=32)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    names = {
        "network": functools.partial(
            models.apply, spec, fixtures.random_variables(spec, 0)
        ),
        "images": jnp.array(images, jnp.float32),
        "labels": jnp.array([0, 2]),
    }
    page = str(harness.ROOT / "docs/backward_rules.md")
    results = doctest.testfile(page, module_relative=False, globs=names)
    assert results.attempted and not results.failed
