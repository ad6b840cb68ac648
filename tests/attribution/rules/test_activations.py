"""Guided backpropagation and the deconvnet, compared with networks built with them."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seeflower_jax.attribution.rules import Deconvnet, Guided, Rules, with_rules
from tests.attribution.rules import networks


def _rectifier(pullback):
    """Return max(x, 0) whose derivative is `pullback(x, cotangent)`."""
    relu = jax.custom_vjp(lambda x: jnp.maximum(x, 0))
    relu.defvjp(
        lambda x: (jnp.maximum(x, 0), x), lambda x, cotangent: (pullback(x, cotangent),)
    )
    return relu


RECTIFIERS = {
    Guided: _rectifier(lambda x, g: jnp.where((x > 0) & (g > 0), g, 0)),
    Deconvnet: _rectifier(lambda x, g: jnp.maximum(g, 0)),
}


def _gradient(network, images):
    # Without `jit`, which fuses equal networks differently, and so rounds differently.
    return jax.grad(lambda x: network(x)[:, 1].sum())(images)


@pytest.mark.parametrize("rules", RECTIFIERS)
@pytest.mark.parametrize("relu", networks.RELUS)
def test_gradient_is_that_of_a_network_with_another_activation(rules, relu):
    parameters, images = networks.arrays()
    build = functools.partial
    network = build(networks.convolutional, networks.RELUS[relu], parameters)
    injected = build(networks.convolutional, RECTIFIERS[rules], parameters)
    actual = _gradient(with_rules(network, rules()), images)
    np.testing.assert_array_equal(actual, _gradient(injected, images))
    difference = np.abs(actual - _gradient(network, images)).max()
    assert difference > 0.1 * np.abs(actual).max()


@pytest.mark.parametrize("rules", RECTIFIERS)
@pytest.mark.parametrize(
    "act", [jax.nn.relu6, lambda x: jnp.clip(x, 0, 6)], ids=["relu6", "clip"]
)
def test_upper_bounds_keep_their_derivative(rules, act):
    x, cotangent = jnp.array([-1.0, 1, 1, 7, 7]), jnp.array([3.0, 3, -3, 3, -3])
    (actual,) = jax.vjp(with_rules(act, rules()), x)[1](cotangent)
    (below,) = jax.vjp(RECTIFIERS[rules], x)[1](jnp.where(x < 6, cotangent, 0))
    np.testing.assert_array_equal(actual, below)


OTHER_FUNCTIONS = [
    jax.nn.leaky_relu,
    jax.nn.gelu,
    jax.nn.silu,
    jax.nn.hard_swish,
    jax.nn.softplus,
    jax.nn.celu,
    lambda x: jnp.maximum(x, 0.5),
    lambda x: jnp.maximum(x, x),
]


@pytest.mark.parametrize("act", OTHER_FUNCTIONS)
def test_other_functions_keep_their_derivative(act):
    x, cotangent = jnp.linspace(-4, 4, 9), jnp.array([1.0, -2, 3] * 3)
    network = with_rules(lambda x: act(jax.nn.relu(x)), Guided())
    _, of_act = jax.vjp(act, jax.nn.relu(x))
    (expected,) = jax.vjp(RECTIFIERS[Guided], x)[1](of_act(cotangent)[0])
    np.testing.assert_allclose(
        jax.vjp(network, x)[1](cotangent)[0], expected, rtol=1e-6
    )


@pytest.mark.parametrize("act", OTHER_FUNCTIONS)
def test_functions_beside_rectifiers_keep_their_derivative(act):
    x, cotangent = jnp.linspace(-4, 4, 9), jnp.array([1.0, -2, 3] * 3)
    network = with_rules(lambda x: act(2 * x) + jax.nn.relu(x), Guided())
    (of_act,) = jax.vjp(lambda x: act(2 * x), x)[1](cotangent)
    (of_relu,) = jax.vjp(RECTIFIERS[Guided], x)[1](cotangent)
    (actual,) = jax.vjp(network, x)[1](cotangent)
    np.testing.assert_allclose(actual, of_act + of_relu, rtol=1e-6)


@pytest.mark.parametrize("rules", [Guided(), Rules()])
@pytest.mark.parametrize(
    "function", [networks.straight_through, networks.rounded_by_numpy]
)
def test_a_custom_derivative_without_rectifiers_is_kept(rules, function):
    network = with_rules(lambda x: function(jax.nn.relu(x)), rules)
    assert jax.grad(network)(0.3) == 1


def _of_equinox(layer):
    """Return a layer of Equinox, which takes one image [C, H, W], for [N, H, W, C]."""
    return jax.vmap(lambda x: jnp.moveaxis(layer(jnp.moveaxis(x, -1, 0)), 0, -1))


# Normalisations of 6 channels, which compute a variance as max(0, variance).
NORMALISATIONS = {
    "linen_group": lambda x: nn.GroupNorm(2).apply(AFFINE, x),
    "linen_layer": lambda x: nn.LayerNorm().apply(AFFINE, x),
    "nnx_group": lambda x: nnx.GroupNorm(6, num_groups=2, rngs=nnx.Rngs(0))(x),
    "equinox_group": lambda x: _of_equinox(eqx.nn.GroupNorm(2, 6))(x),
}
AFFINE = {"params": {"scale": np.linspace(0.5, 2, 6), "bias": np.linspace(-1, 1, 6)}}


def _normalised(normalisation, act):
    parameters, _ = networks.arrays()
    normalise = NORMALISATIONS[normalisation]
    return functools.partial(
        networks.convolutional, lambda x: act(normalise(x)), parameters
    )


@pytest.mark.parametrize("rules", RECTIFIERS)
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_the_lower_bound_of_a_variance_keeps_its_derivative(rules, name):
    _, images = networks.arrays()
    network = with_rules(_normalised(name, jax.nn.relu), rules())
    expected = _gradient(_normalised(name, RECTIFIERS[rules]), images)
    difference = np.abs(_gradient(network, images) - expected).max()
    assert difference < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("rules", RECTIFIERS)
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_a_network_with_a_normalisation_but_no_rectifier_is_refused(rules, name):
    _, images = networks.arrays()
    with pytest.raises(ValueError, match="functions use \\['tanh'\\]; use"):
        with_rules(_normalised(name, jax.nn.gelu), rules())(images)


@pytest.mark.parametrize("rules", RECTIFIERS)
def test_a_network_without_rectifiers_is_refused(rules):
    message = f"{rules.__name__} has rules for .* functions use \\['tanh'\\]; use"
    with pytest.raises(ValueError, match=message):
        with_rules(jax.nn.gelu, rules())(1.0 * jnp.ones(3))
    for act in (jnp.sin, jnp.square, lambda x: jnp.maximum(x, 0.1 * x)):
        with pytest.raises(ValueError, match="the network has none"):
            with_rules(act, rules())(jnp.ones(3))
    linear = with_rules(lambda x: 2 * x, rules())
    assert jax.grad(linear)(1.0) == 2


def test_a_primitive_that_hides_rectifiers_is_named():
    def network(x):
        return jax.lax.while_loop(
            lambda x: x.sum() > 1, lambda x: jax.nn.relu(x) / 2, x
        )

    with pytest.raises(ValueError, match="cannot look into the primitive 'while'"):
        with_rules(lambda x: network(jax.nn.relu(x)), Guided())(jnp.ones(3))
