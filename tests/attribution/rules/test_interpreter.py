"""Networks that are evaluated by rules: their outputs, and how functions wrap them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution import layers, registry
from seeflower_jax.attribution.rules import (
    LRP,
    DeepLift,
    Guided,
    Rules,
    epsilon,
    gamma,
    with_rules,
)
from tests import fixtures
from tests.attribution import small_network as small
from tests.attribution.rules import networks

RULE_METHODS = (
    "guided_saliency", "deconvnet_saliency", "paper_saliency", "guided_grad_cam",
    "deep_lift", "lrp", "full_grad",
)  # fmt: skip
ALL = {"guided": Guided(), "deep_lift": DeepLift(0.5), "lrp": LRP(gamma(0.3))}


def _network(act=jax.nn.relu):
    parameters, images = networks.arrays()
    return functools.partial(networks.convolutional, act, parameters), images


def _gradient(network):
    return jax.grad(lambda x: network(x)[:, 1].sum())


@pytest.mark.long
@pytest.mark.parametrize("rules", ALL)
def test_outputs_stay_and_jit_and_vmap_agree(rules):
    network, images = _network()
    rewritten = with_rules(network, ALL[rules])
    np.testing.assert_allclose(rewritten(images), network(images), rtol=1e-6)
    gradient = _gradient(rewritten)(images)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(jax.jit(_gradient(rewritten))(images), gradient)
    by_image = jax.vmap(_gradient(lambda x: rewritten(x[None])))
    close(by_image(images), gradient)
    close(_gradient(jax.vmap(lambda x: rewritten(x[None])[0]))(images), gradient)


@pytest.mark.parametrize("rules", ["deep_lift", "lrp"])
@pytest.mark.parametrize("relu", networks.RELUS)
def test_rules_see_through_what_wraps_a_function(rules, relu):
    plain, images = _network()
    wrapped, _ = _network(networks.RELUS[relu])
    np.testing.assert_allclose(
        _gradient(with_rules(wrapped, ALL[rules]))(images),
        _gradient(with_rules(plain, ALL[rules]))(images),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("rules", ALL)
def test_a_zero_that_a_network_closes_over_makes_a_rectifier(rules, shape):
    zero, (plain, images) = jnp.zeros(shape), _network()
    network, _ = _network(lambda x: jnp.maximum(x, zero))
    expected = _gradient(with_rules(plain, ALL[rules]))(images)
    gradient = _gradient(with_rules(network, ALL[rules]))
    for compute in (gradient, jax.jit(gradient)):
        np.testing.assert_allclose(compute(images), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RULE_METHODS)
def test_a_network_may_split_a_random_key(name):
    key = jax.random.key(0)
    noise = jax.random.normal(jax.random.split(key)[0], small.images().shape)

    def splitting(parameters, x):
        drawn = jax.random.normal(jax.random.split(key)[0], x.shape)
        return small.forward(parameters, x + drawn)

    def plain(parameters, x):
        return small.forward(parameters, x + noise)

    method = registry.METHODS[name]
    options = {"layer": "first"} if method.layered else {}
    maps, expected = (
        method.function(
            attr.from_function(function, small.PARAMETERS, preprocess=small.preprocess),
            small.images(),
            small.LABELS,
            **options,
        )
        for function in (splitting, plain)
    )
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(maps, expected, atol=1e-5 * np.abs(expected).max())


def test_layers_in_a_loop_are_those_of_the_loop_written_out():
    rng = np.random.default_rng(0)
    kernels = jnp.array(rng.normal(size=(3, 8, 8)), jnp.float32)
    x = jnp.array(rng.normal(size=(2, 8)), jnp.float32)

    def layer(x, kernel):
        return jax.nn.relu(x @ kernel + 0.1), x.sum()

    def in_loop(x):
        return lax.scan(jax.checkpoint(layer), x, kernels)[0]

    def written_out(x):
        for kernel in kernels:
            x, _ = layer(x, kernel)
        return x

    for rules in ALL.values():
        loop, plain = (with_rules(f, rules) for f in (in_loop, written_out))
        np.testing.assert_allclose(
            _gradient(loop)(x), _gradient(plain)(x), rtol=1e-4, atol=1e-6
        )


def _structural(x):
    """Move, repeat and sum values, without changing any of them."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, ::-1, 1:, :]
    x = jnp.concatenate([x, jnp.roll(x, 1, 1)], -1).transpose(0, 2, 1, 3)
    x = jnp.stack(jnp.split(x, 2, -1), 1).reshape(len(x), 2, -1)
    x = jnp.take(x, jnp.array([0, 5, 5, 7]), -1) + jnp.repeat(x[..., 8:9], 4, -1)
    x = lax.dynamic_slice_in_dim(x, 1, 3, -1)
    x = jnp.zeros((len(x), 2, 5)).at[:, :, 1:4].add(x)
    x = lax.optimization_barrier(checkpoint_name(x, "x"))
    return jnp.cumsum(x, -1).sum(1)


@pytest.mark.parametrize("rules", ALL)
def test_structural_primitives_have_their_own_derivative(rules):
    images = jnp.array(np.random.default_rng(0).normal(size=(2, 6, 6, 2)), jnp.float32)
    weights = jnp.array(np.random.default_rng(1).normal(size=(2, 5)), jnp.float32)
    gradient, expected = (
        jax.grad(lambda x, f=f: (f(x) * weights).sum())(images)
        for f in (with_rules(_structural, ALL[rules]), _structural)
    )
    if rules == "lrp":  # the derivative with respect to the image is its relevance
        expected *= images
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("rules", ALL)
def test_half_precision_is_close(rules):
    options = {"num_classes": 3, "width": 0.3, "input_size": 32}
    spec = models.get_spec("small", **options)
    half = models.get_spec("small", dtype="bfloat16", **options)
    variables = fixtures.random_variables(spec, 0)
    images = jnp.array(np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)))

    def gradient(spec):
        network = with_rules(lambda x: models.apply(spec, variables, x)[0], ALL[rules])
        return jax.jit(_gradient(network))(images).ravel()

    exact, rounded = gradient(spec), gradient(half)
    assert exact.dtype == rounded.dtype == jnp.float32
    assert np.corrcoef(exact, rounded)[0, 1] > 0.95


def test_a_primitive_without_rule_is_named():
    for name, rules in (("DeepLift", DeepLift(0.0)), ("LRP", LRP(epsilon()))):
        sort = with_rules(lambda x: jnp.sort(x), rules)
        with pytest.raises(ValueError, match=f"{name} has no rule .* primitive 'sort'"):
            sort(jnp.ones(3))


def test_a_subclass_gives_a_primitive_a_rule():
    class Sorting(LRP):
        def other(self, operation, *inputs):
            own_derivative = self.linear
            is_known = operation.name == "sort"
            return (own_derivative if is_known else super().other)(operation, *inputs)

    x, weights = jnp.array([3.0, -1.0, 2.0]), jnp.array([1.0, 2.0, 4.0])
    network = with_rules(lambda x: jnp.sort(x) @ weights, Sorting(epsilon(0.0)))
    np.testing.assert_allclose(jax.grad(network)(x), [12.0, -1.0, 4.0])


def test_a_branch_that_depends_on_the_images():
    def network(x):
        return lax.cond(x.sum() > 0, jax.nn.relu, jnp.sin, x)

    x = jnp.array([1.0, -2.0, 3.0])
    relevance = jax.grad(lambda x: with_rules(network, LRP(epsilon()))(x).sum())(x)
    np.testing.assert_allclose(relevance, jax.nn.relu(x))
    with pytest.raises(ValueError, match="no rule for a branch of jax.lax.cond"):
        with_rules(network, DeepLift(0.0))(x)


def test_callbacks_of_a_network_run():
    seen = []

    def network(x):
        jax.debug.callback(lambda total: seen.append(float(total)), x.sum())
        return jax.nn.relu(x)

    with_rules(network, Guided())(jnp.array([1.0, 2.0]))
    jax.effects_barrier()
    assert seen == [3.0]


def test_images_of_integers_are_refused():
    network, images = _network()
    with pytest.raises(ValueError, match="images are uint8; expected floating point"):
        with_rules(network, Guided())(images.astype(jnp.uint8))


def test_rules_without_a_change_are_the_derivatives_of_the_network():
    network, images = _network(jax.nn.silu)
    np.testing.assert_allclose(
        _gradient(with_rules(network, Rules()))(images),
        _gradient(network)(images),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.long
@pytest.mark.parametrize("rules", ALL)
def test_taps_get_the_derivative_at_their_layer(rules):
    """The derivative at a layer is the derivative of the layers above it."""
    spec = models.get_spec("small", num_classes=3, width=0.2, input_size=32)
    variables = fixtures.random_variables(spec, 0)
    images = jnp.array(np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)))
    network = with_rules(functools.partial(models.apply, spec, variables), ALL[rules])
    labels = jnp.array([0, 2])
    values = layers.gradients(network, images, labels, ["block4"])
    activations, gradients = values["block4"]
    scores = network(images)[0][jnp.arange(2), labels]
    if rules == "lrp":  # relevance is conserved at every layer
        relevance = (activations * gradients).sum((1, 2, 3))
        np.testing.assert_allclose(relevance, scores, rtol=1e-5)
    assert np.abs(gradients).max() > 0
