"""The same network in each framework has the maps of a network written by hand."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from captum import attr as captum

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import layers, registry
from tests.attribution.adapters import frameworks
from tests.attribution.adapters.frameworks import FRAMEWORKS, LAYERS, reference
from tests.attribution.adapters.hand_split import assert_close

OPTIONS = {"integrated_gradients": {"steps": 4}}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def adapted(request):
    return FRAMEWORKS[request.param]()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return jnp.array(rng.uniform(0, 255, (2, *frameworks.SHAPE)), jnp.float32)


@pytest.fixture(scope="module")
def labels():
    return jnp.array([1, 4])


def test_logits_and_endpoints(adapted, images):
    logits, endpoints = adapted.network(images)
    expected_logits, expected = reference(images)
    assert_close(logits, expected_logits)
    for name in LAYERS:
        assert_close(endpoints[name], expected[name])


def test_layers_are_in_order(adapted, images):
    adapted.network(images)
    shapes = adapted.network.layers
    assert {name: shapes[name] for name in LAYERS} == LAYERS
    assert [name for name in shapes if name in LAYERS] == list(LAYERS)
    assert adapted.network.hidden_layers == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_at_layers(adapted, images, labels, layer):
    actual, expected = (
        layers.gradients(network, images, labels, [layer])[layer]
        for network in (adapted.network, reference)
    )
    assert_close(actual[0], expected[0])
    assert_close(actual[1], expected[1])


# One method of each kind: by gradients, along a path, of a layer, by backward rules.
@pytest.mark.parametrize(
    "name", ["saliency", "integrated_gradients", "hires_cam", "guided_saliency", "lrp"]
)
def test_methods(adapted, images, labels, name):
    method = registry.METHODS[name]
    options = dict(OPTIONS.get(name, {}))
    options |= {"layer": "block/conv2"} if method.layered else {}
    compute = functools.partial(method.function, **options)
    actual = jax.jit(compute)(adapted.network, images, labels)
    assert_close(actual, compute(reference, images, labels))


def test_captum(adapted, images, labels):
    network, block = frameworks.torch_net()
    pixels = torch.tensor(np.moveaxis(images, -1, 1).copy(), requires_grad=True)

    def of_pixels(x):
        return network(frameworks.preprocess(x))

    targets = torch.tensor(np.array(labels))
    saliency = captum.Saliency(of_pixels).attribute(pixels, targets)
    integrated = captum.IntegratedGradients(of_pixels).attribute(
        pixels, torch.full_like(pixels, 127.5), targets, n_steps=20
    )
    maps = captum.LayerGradCam(of_pixels, block).attribute(pixels, targets)
    maps = captum.LayerAttribution.interpolate(maps, images.shape[1:3], "bilinear")
    options = {"layer": "block", "relu": False, "align": "stretch"}
    pairs = (
        (attr.saliency(adapted.network, images, labels), saliency.max(1)[0]),
        (
            attr.integrated_gradients(
                adapted.network, images, labels, steps=20, spacing=1.0
            ),
            integrated.sum(1),
        ),
        (
            attr.grad_cam(adapted.network, images, labels, **options),
            maps[:, 0],
        ),
    )
    for actual, expected in pairs:
        assert_close(actual, expected.detach().numpy())


def test_vmap_and_grad(adapted, images, labels):
    def one_map(network, image, label):
        return attr.grad_cam(network, image[None], label[None], layer="block")[0]

    maps = attr.grad_cam(reference, images, labels, layer="block")
    over_images = jax.vmap(one_map, (None, 0, 0))
    assert_close(over_images(adapted.network, images, labels), maps)
    tangents = jnp.ones_like(images)
    actual, expected = (
        jax.jvp(lambda x: f(x)[0], (images,), (tangents,))[1]  # noqa: B023
        for f in (adapted.network, reference)
    )
    assert_close(actual, expected)


def test_variables_have_gradients(adapted, images):
    def loss(variables):
        network = dataclasses.replace(adapted.network, variables=variables)
        return network(images)[0].sum()

    gradients = jax.grad(loss, allow_int=True)(adapted.network.variables)
    sizes = {x.size: x for x in jax.tree.leaves(gradients)}
    np.testing.assert_allclose(sizes[frameworks.CLASSES].ravel(), len(images))


def test_originals_stay_as_they_were(adapted, images):
    adapted.network(images)
    with pytest.raises(Exception, match="shape|channels|feature|dimension|axis"):
        adapted.network(images[..., :2])
    inputs = frameworks.preprocess(images)
    assert_close(adapted.call(inputs), reference(images)[0])
    has_names = "name[name=" in str(jax.make_jaxpr(adapted.call)(inputs))
    assert has_names == isinstance(adapted.original, types.FunctionType)
