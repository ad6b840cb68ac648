"""Backward rules on VGG16 with random variables, compared with captum's."""

import jax
import numpy as np
import pytest

from seeflower_jax import models
from seeflower_jax.comparison import attribution_parity, pairs
from tests import fixtures

SIDE, LABELS = 64, (3, 7)
METHODS = (
    *("guided_saliency", "deconvnet_saliency", "deep_lift"),
    *("lrp", "lrp_epsilon", "lrp_gamma", "lrp_alpha_beta"),
)


@pytest.fixture(scope="module")
def vgg16():
    """Return VGG16 in both frameworks, with random biases."""
    spec = models.get_spec("vgg16", num_classes=10, input_size=SIDE)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: x if x.any() else rng.normal(0, 5, x.shape).astype(np.float32),
        fixtures.random_variables(spec, 0),
    )
    images = rng.uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    return pairs.make_pair(spec, variables, images, np.array(LABELS))


@pytest.mark.parametrize("name", METHODS)
def test_rules_are_captums(vgg16, name):
    ((_, figures),) = attribution_parity.compare(vgg16, [name])
    assert figures["against"].startswith("captum")
    assert figures["relative_difference"] < 1e-4
