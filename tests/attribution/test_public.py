"""The public names of the package `attribution`."""

import pytest

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import registry


@pytest.mark.parametrize("name", sorted({*attr.__all__} - {"METHODS"}))
def test_public_names_are_functions(name):
    assert callable(getattr(attr, name)) and getattr(attr, name).__name__ == name


def test_all_methods_are_public():
    assert attr.METHODS is registry.METHODS
    for name, method in (registry.METHODS | registry.ATTENTION_METHODS).items():
        assert getattr(attr, name) is method.function


def test_modules_and_unknown_names():
    assert attr.registry is registry
    with pytest.raises(AttributeError, match="no attribute 'grad_camm'"):
        attr.grad_camm  # noqa: B018
