"""Backward rules on VGG16 with random variables, compared with captum's."""

import functools

import jax
import numpy as np
import pytest

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution.rules import by_depth, epsilon
from seeflower_jax.comparison import attribution_parity, captum_references, pairs
from tests import fixtures

SIDE, LABELS = 64, (3, 7)
METHODS = (
    *("guided_saliency", "deconvnet_saliency", "deep_lift"),
    *("lrp_gamma", "lrp_alpha_beta"),
)


def _vgg16(dtype):
    """Return VGG16 in both frameworks, with random biases."""
    spec = models.get_spec("vgg16", num_classes=10, input_size=SIDE)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: x if x.any() else rng.normal(0, 5, x.shape).astype(np.float32),
        fixtures.random_variables(spec, 0),
    )
    images = rng.uniform(0, 255, (2, SIDE, SIDE, 3)).astype(dtype)
    return pairs.make_pair(spec, variables, images, np.array(LABELS))


@pytest.fixture(scope="module")
def vgg16():
    return _vgg16(np.float32)


@pytest.mark.parametrize("name", METHODS)
def test_rules_are_captums(vgg16, name):
    ((_, figures),) = attribution_parity.compare(vgg16, [name])
    assert figures["against"].startswith("captum")
    assert figures["relative_difference"] < 1e-4


def test_lrp_by_depth():
    """In float64, because small sums of 14 layers make rounding larger."""
    with jax.enable_x64(True):
        ((_, figures),) = attribution_parity.compare(_vgg16(np.float64), ["lrp"])
    assert figures["against"].startswith("captum")
    assert figures["relative_difference"] < 1e-6


def test_lrp_epsilon(vgg16):
    """A larger epsilon, because small sums of 14 layers make rounding larger."""
    ends, count = epsilon(captum_references.LRP_EPSILON), 14
    rule = by_depth((1 / count, ends), (1 - 1 / count, epsilon(0.5)), (1.0, ends))
    run = jax.jit(functools.partial(attr.lrp, rule=rule))
    maps = run(vgg16.network, vgg16.images, np.array(LABELS))
    expected = captum_references.lrp("epsilon", epsilon=0.5)(vgg16).detach().numpy()
    for both in zip(np.asarray(maps), expected, strict=True):
        assert attribution_parity.of_map(*both)[1] < 1e-4
