"""The examples in the docstrings of the attribution modules run."""

import doctest
import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import attribution, models
from tests import fixtures

pytestmark = pytest.mark.long

MODULES = [
    module.name
    for module in pkgutil.walk_packages(
        attribution.__path__, f"{attribution.__name__}."
    )
]
# {module: the optional package that its examples need}
PACKAGES = {
    "adapters.equinox": "equinox",
    "adapters.haiku": "haiku",
    "adapters.keras": "keras",
    "segments": "skimage",
}


@pytest.fixture(scope="module")
def names():
    """Return the names that the examples use without defining them."""
    spec = models.get_spec("vgg16", num_classes=5, width=0.05, input_size=64)
    variables = fixtures.random_variables(spec, 0)
    rng = np.random.default_rng(0)
    return {
        "jax": jax,
        "jnp": jnp,
        "spec": spec,
        "variables": variables,
        "network": functools.partial(models.apply, spec, variables),
        "images": jnp.array(rng.uniform(0, 255, (3, 64, 64, 3)), jnp.float32),
        "labels": jnp.array([0, 1, 2]),
        "keys": jax.random.split(jax.random.key(0), 3),
        "maps": jnp.array(rng.normal(size=(3, 64, 64)), jnp.float32),
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples(names, name):
    if package := PACKAGES.get(name.removeprefix(f"{attribution.__name__}.")):
        importlib.import_module(package)  # or the test is skipped
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=names)
    assert results.failed == 0


def test_all_modules_but_types_have_examples():
    finder = doctest.DocTestFinder()
    counts = {
        name: sum(
            len(test.examples) for test in finder.find(importlib.import_module(name))
        )
        for name in MODULES
    }
    without = {name for name, count in counts.items() if not count}
    expected = ("types", "methods", "metrics", "adapters")
    assert without == {f"{attribution.__name__}.{name}" for name in expected}
