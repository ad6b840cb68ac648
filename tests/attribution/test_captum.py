"""Maps of the real networks compared with captum's maps of the same networks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from seeflower_jax import models
from seeflower_jax.attribution import batch, integrated_gradients, registry
from seeflower_jax.comparison import (
    attribution_speed,
    captum_reference,
    torch_networks,
)
from seeflower_jax.pretrained import loading
from tests import fixtures
from tests.models import parity

CLASSES, SIDE = (3, 77), 128


def _both(assets, name):
    """Return (spec, variables, (network, layer) in PyTorch, images)."""
    spec = models.get_spec(name, num_classes=102, pooling="average")
    weights = str(parity.weight_file(assets, name))
    spec, variables, _ = loading.load_pretrained(spec, weights)
    spec = dataclasses.replace(spec, count_include_pad=True)
    images = parity.pictures(assets, SIDE)[:2].astype(np.float32)
    return spec, variables, torch_networks.torch_network(spec, variables), images


@pytest.fixture(scope="module")
def vgg16(assets):
    return _both(assets, "vgg16")


@pytest.fixture(scope="module")
def inception_v3(assets):
    return _both(assets, "inception_v3")


def _torch_images(images):
    return torch.tensor(images.transpose(0, 3, 1, 2).copy()).requires_grad_()


def _correlation(both, method):
    """Return the smallest correlation of the two maps of an image."""
    spec, variables, (network, layer), images = both
    captum_maps = captum_reference.captum_maps(
        method, network, layer, _torch_images(images), torch.tensor(CLASSES)
    )
    call = attribution_speed.make_map_function(spec, method)
    maps = np.asarray(call(variables, images, jnp.array(CLASSES)))
    assert captum_maps.shape == maps.shape == (2, SIDE, SIDE)
    pairs = zip(maps, captum_maps.detach().numpy(), strict=True)
    return min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs)


def _shared(name):
    """Return the methods to compare, without those that `test_parity` compares.

    Random methods draw other numbers. captum's conductance integrates along other
    points, and its DeepLIFT has another rule of max pooling after a ReLU.
    """
    left_out = ("deep_lift", "layer_conductance")
    return [
        method
        for method in attribution_speed.shared_methods(name)
        if method not in left_out and not registry.METHODS[method].random
    ]


@pytest.mark.parametrize("method", _shared("vgg16"))
def test_maps_of_vgg16(vgg16, method):
    assert _correlation(vgg16, method) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("method", _shared("inception_v3"))
def test_maps_of_inception_v3(inception_v3, method):
    assert _correlation(inception_v3, method) > 0.999


def test_logits_are_equal(vgg16):
    spec, variables, (network, _), images = vgg16
    torch_logits = network(_torch_images(images)).detach().numpy()
    logits = models.apply(spec, variables, images)[0]
    np.testing.assert_allclose(logits, torch_logits, rtol=1e-3, atol=1e-2)


def test_integrated_gradients_are_complete(vgg16):
    spec, variables, _, images = vgg16
    network = functools.partial(models.apply, spec, variables)
    logits, grey = (network(x)[0] for x in (images, jnp.full_like(images, 127.5)))
    maps = integrated_gradients(network, images, steps=100)
    change = jnp.take_along_axis(logits - grey, logits.argmax(-1)[:, None], -1)[:, 0]
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=0.01)


def test_every_method_finds_its_layer_by_default():
    spec = models.get_spec("vgg16", num_classes=3, width=0.05)
    explain = batch.make_explainer(spec, ["grad_cam"])
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3))
    keys = jax.random.split(jax.random.key(0), len(images))
    _, _, maps = explain(
        variables, images.astype(np.float32), jnp.full(2, registry.PREDICTED), keys
    )
    assert maps["grad_cam"].shape == (2, 64, 64)
