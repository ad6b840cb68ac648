"""Test forward-mode derivatives of whole networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import models
from tests import fixtures

pytestmark = pytest.mark.long

SIZES = {"baseline": 32, "inception_v3": 75, "small": 32, "vgg16": 32, "vgg19": 32}


def _network(name):
    """Return the logits as a function of parameters and images, and its arguments."""
    width = 0.25 if name == "small" else fixtures.NARROW_WIDTH
    spec = models.get_spec(name, num_classes=3, width=width, input_size=SIZES[name])
    variables = fixtures.random_variables(spec, 0)
    shape = (2, spec.input_size, spec.input_size, 3)
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, shape), jnp.float32)

    def logits(params, images):
        return models.apply(spec, {**variables, "params": params}, images)[0]

    return logits, (variables["params"], images)


def _directions(arguments):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), arguments
    )


def _inner(first, second):
    products = jax.tree.map(lambda a, b: (a * b).sum(), first, second)
    return sum(jax.tree.leaves(products))


def test_every_network_is_tested():
    assert SIZES.keys() == models.MODELS.keys()


@pytest.mark.parametrize(
    "name",
    # Inception-v3 takes a minute, and VGG19 has the layers of VGG16.
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("inception_v3", "vgg19")
        else name
        for name in SIZES
    ],
)
def test_forward_and_reverse_products_agree(name):
    logits, arguments = _network(name)
    tangents = _directions(arguments)

    @jax.jit
    def products(arguments, tangents):
        value, moved = jax.jvp(logits, arguments, tangents)
        cotangent = jnp.cos(jnp.arange(value.size)).reshape(value.shape)
        gradients = jax.vjp(logits, *arguments)[1](cotangent)
        return _inner(moved, cotangent), _inner(gradients, tangents)

    forward, reverse = products(arguments, tangents)
    assert abs(forward) > 1e-3
    np.testing.assert_allclose(forward, reverse, rtol=2e-3)


@pytest.mark.parametrize("name", ["baseline", "small"])
def test_hessian_is_symmetric(name):
    logits, arguments = _network(name)
    first, second = _directions(arguments), jax.tree.map(jnp.cos, arguments)

    @jax.jit
    def hessian_product(tangents):
        def loss(params, images):
            return -jax.nn.log_softmax(logits(params, images))[:, 0].mean()

        return jax.jvp(jax.grad(loss, (0, 1)), arguments, tangents)[1]

    products = [
        _inner(hessian_product(first), second),
        _inner(hessian_product(second), first),
    ]
    assert abs(products[0]) > 1e-3
    np.testing.assert_allclose(*products, rtol=2e-3)
