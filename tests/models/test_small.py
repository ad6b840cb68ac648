"""Test the small network."""

import dataclasses

import jax
import numpy as np
import pytest

from seeflower_jax import models
from tests import fixtures


def test_endpoints_and_parameters():
    spec = models.get_spec("small", num_classes=7)
    shapes = models.shapes(spec)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), np.uint8)
    logits, endpoints = jax.eval_shape(
        lambda v, x: models.apply(spec, v, x), shapes, images
    )
    assert logits.shape == (2, 7)
    assert [tuple(end.shape[1:]) for end in endpoints.values()] == [
        (32, 32, 24),
        (16, 16, 32),
        (8, 8, 64),
        (8, 8, 128),
        (8, 8, 128),
    ]
    assert list(endpoints)[-1] == spec.cam_layer


def test_a_tap_at_the_last_block_moves_the_logits_by_the_head_alone():
    spec = models.get_spec("small", num_classes=4, width=0.25)
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    logits, endpoints = models.apply(spec, variables, images)
    tap = np.ones_like(endpoints["block5"])
    moved, _ = models.apply(spec, variables, images, {"block5": tap})
    kernel = variables["params"]["head"]["logits"]["kernel"]
    expected = np.broadcast_to(kernel.sum(0), (2, 4))
    np.testing.assert_allclose(moved - logits, expected, rtol=1e-4, atol=1e-4)


def test_float64_needs_the_64_bit_mode():
    spec = models.get_spec("small", num_classes=4, width=0.25)
    exact = dataclasses.replace(spec, dtype="float64")
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="'float64' needs .* JAX_ENABLE_X64=1"):
        models.apply(exact, variables, images)
    logits, _ = models.apply(spec, variables, images)
    with jax.enable_x64(True):
        exact_logits, endpoints = models.apply(exact, variables, images)
    assert exact_logits.dtype == endpoints["block5"].dtype == np.float64
    np.testing.assert_allclose(logits, exact_logits, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(logits) - np.asarray(exact_logits)).max() > 0
