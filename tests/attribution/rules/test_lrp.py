"""LRP: formulas of single layers, conservation, and equal networks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution.methods.lrp import lrp
from seeflower_jax.attribution.rules import (
    LRP,
    alpha_beta,
    by_depth,
    epsilon,
    gamma,
    with_rules,
)
from tests import fixtures
from tests.attribution.rules import networks
from tests.attribution.rules.test_deep_lift import ACTIVATIONS, masked_mean

RULES = {
    "epsilon": epsilon(0.1),
    "gamma": gamma(0.3),
    "alpha_beta": alpha_beta(2.0, 1.0),
}


def _relevance(network, rule, images):
    rewritten = with_rules(network, LRP(rule))
    return jax.jit(jax.grad(lambda x: rewritten(x)[:, 1].sum()))(images)


def _shares(rule, x, kernel, bias):
    """Return the share of each input in each output, as the papers write it."""
    parts = x[:, None] * kernel
    positive, negative = np.maximum(parts, 0), np.minimum(parts, 0)
    total = parts.sum(0) + bias
    above = positive.sum(0) + np.maximum(bias, 0)
    below = negative.sum(0) + np.minimum(bias, 0)
    if rule == "epsilon":
        return parts / (total + 0.1 * np.sign(total))
    if rule == "gamma":
        favoured = np.where(total > 0, positive, negative)
        whole = np.where(total > 0, above, below)
        return (parts + 0.3 * favoured) / (total + 0.3 * whole)
    return 2 * positive / above - negative / below


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_distributes_relevance_as_its_formula(rule):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=5), rng.normal(size=(5, 4)), rng.normal(size=4)
    upper = rng.normal(size=(4, 2))

    def network(x):
        return jnp.tanh(x @ kernel + bias) @ upper

    hidden = np.tanh(x @ kernel + bias)
    above = _shares(rule, hidden, upper, np.zeros(2))[:, 1] * (hidden @ upper)[1]
    expected = _shares(rule, x, kernel, bias) @ above
    actual = _relevance(network, RULES[rule], jnp.array(x, jnp.float32)[None])
    np.testing.assert_allclose(actual[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("groups", [1, 3])
def test_batch_normalisation_belongs_to_the_convolution(rule, groups):
    """A network has the relevance of the network with the normalisation folded in."""
    rng = np.random.default_rng(1)
    images, kernel, scale, shift, head = (
        jnp.array(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 6, 6, 3), (3, 3, 3 // groups, 9), (9,), (9,), (9, 2))
    )

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def normalised(x):
        y = (convolve(x, kernel) - shift) * scale / 0.5 + 0.2
        return jax.nn.relu(y).mean((1, 2)) @ head

    def folded(x):
        y = convolve(x, kernel * scale / 0.5) + (0.2 - shift * scale / 0.5)
        return jax.nn.relu(y).mean((1, 2)) @ head

    np.testing.assert_allclose(
        _relevance(normalised, RULES[rule], images),
        _relevance(folded, RULES[rule], images),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_function_passes_all_relevance_but_that_of_its_bias(name):
    act, weights = ACTIVATIONS[name], jnp.array([1.0, -2.0, 0.5, 3.0])
    x = jnp.array([[-2.0, 1.2, 3.0, 8.0]])

    def network(x):
        return jnp.stack([x @ weights, act(3 * x) @ weights], -1)

    relevance = _relevance(network, epsilon(0.0), x)
    expected = weights * (act(3 * x) - act(jnp.zeros(())))
    np.testing.assert_allclose(relevance, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["gamma", "epsilon"])
def test_relevance_is_conserved_without_biases(rule):
    parameters, images = networks.arrays(bias=0.0)
    network = functools.partial(networks.convolutional, jax.nn.relu, parameters)
    rule = epsilon(0.0) if rule == "epsilon" else RULES[rule]
    total = _relevance(network, rule, images).sum((1, 2, 3))
    np.testing.assert_allclose(total, network(images)[:, 1], rtol=1e-4)


def test_biases_keep_their_share():
    """The relevance that does not reach the image is the relevance of an input of 1."""
    parameters, images = networks.arrays()

    def network(images, ones):
        biased = {
            name: (kernel, bias * ones) for name, (kernel, bias) in parameters.items()
        }
        return networks.convolutional(jax.nn.relu, biased, images)

    # With LRP-0, the relevance of an input is the input times its gradient.
    gradient = jax.grad(lambda ones: network(images[:1], ones)[0, 1])(1.0)
    score = network(images[:1], 1.0)[0, 1]
    relevance = _relevance(lambda x: network(x, 1.0), epsilon(0.0), images[:1])
    np.testing.assert_allclose(relevance.sum() + gradient, score, rtol=1e-4)
    by_gradient = jax.grad(lambda x: network(x, 1.0)[0, 1])(images[:1]) * images[:1]
    np.testing.assert_allclose(relevance, by_gradient, rtol=1e-3, atol=1e-5)


def test_attention_and_normalisation_are_held_constant():
    """The relevance equals that of a network with constant gates (Ali et al. 2022)."""
    rng = np.random.default_rng(2)
    query, key, value, hidden, head = (
        jnp.array(rng.normal(0, 0.5, (6, 6)), jnp.float32) for _ in range(5)
    )
    x = jnp.array(rng.normal(size=(2, 4, 6)), jnp.float32)

    def network(x, hold):
        scale = jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-3)
        y = x * hold(scale)
        scores = jnp.einsum("nic,njc->nij", y @ query, y @ key)
        x = x + jnp.einsum("nij,njc->nic", hold(jax.nn.softmax(scores)), y @ value)
        gate = jax.nn.sigmoid(x.mean(1, keepdims=True) @ hidden)
        return (jax.nn.gelu(x) * hold(gate) / hold(x.std())).mean(1) @ head

    relevance = _relevance(lambda x: network(x, lambda gate: gate), epsilon(0.0), x)
    held = _relevance(lambda x: network(x, jax.lax.stop_gradient), epsilon(0.0), x)
    np.testing.assert_allclose(relevance, held, rtol=1e-4, atol=1e-6)
    score = network(x, lambda gate: gate)[:, 1]
    np.testing.assert_allclose(relevance.sum((1, 2)), score, rtol=1e-4)


def test_a_product_without_a_gate_is_shared_in_halves():
    x = jnp.array([[3.0, 5.0]])
    network = lambda x: jnp.stack([x[:, 0], 2 * x[:, 0] * x[:, 1]], -1)  # noqa: E731
    np.testing.assert_allclose(_relevance(network, epsilon(0.0), x), [[15.0, 15.0]])


def test_the_divisor_of_a_masked_mean_is_held_constant():
    x = jnp.array([3.0, -2.0, 5.0, 1.0])
    relevance = jax.grad(with_rules(masked_mean, LRP(epsilon(0.0))))(x)
    np.testing.assert_allclose(relevance, [1.0, 0.0, 5 / 3, 1 / 3], rtol=1e-6)


def _softmax(x):
    values = jnp.exp(x - x.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def _softmax_of_constant_maximum(x):
    values = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return values / values.sum(-1, keepdims=True)


@pytest.mark.parametrize("softmax", [jax.nn.softmax, _softmax])
def test_the_maximum_in_a_softmax_is_held_constant(softmax):
    parameters, images = networks.arrays()
    network = functools.partial(networks.convolutional, jax.nn.relu, parameters)

    def relevance(network):
        """Return the relevance of the predicted class."""
        rewritten = with_rules(network, LRP(gamma(0.3)))
        return jax.grad(lambda x: rewritten(x).max(-1).sum())(images)

    # The probability is exp(0) divided by a constant, and exp has the slope 1 at 0.
    probabilities = jax.nn.softmax(network(images)).max(-1)
    expected = probabilities[:, None, None, None] * relevance(network)
    assert np.abs(expected).max() > 0
    actual = relevance(lambda x: softmax(network(x)))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    others, expected = (
        _relevance(lambda x, f=f: f(network(x)), gamma(0.3), images)
        for f in (softmax, _softmax_of_constant_maximum)
    )
    np.testing.assert_allclose(others, expected, rtol=1e-4, atol=1e-6)


def test_a_maximum_outside_a_softmax_has_relevance():
    x = jnp.array([[3.0, -2.0, 5.0]])
    relevance = _relevance(
        lambda x: 2 * (x - x.max(-1, keepdims=True)), epsilon(0.0), x
    )
    np.testing.assert_allclose(relevance, [[0.0, -4.0, -10.0]])


SPECS = {
    "vgg16": {"input_size": 64},
    "vgg16 bilinear": {"pooling": "bilinear", "input_size": 64},
    "small": {"input_size": 64, "width": 0.3},
    "baseline": {"input_size": 32},
    "inception_v3": {"input_size": 96},
}


@pytest.mark.long
@pytest.mark.parametrize("name", SPECS)
def test_maps_sum_to_the_scores(name):
    """Random variables have no biases, and the preprocessing is no bias."""
    options = {"num_classes": 5, "width": 0.1} | SPECS[name]
    spec = models.get_spec(name.partition(" ")[0], **options)
    network = functools.partial(
        models.apply, spec, fixtures.random_variables(spec, seed=0)
    )
    side, rng = spec.input_size, np.random.default_rng(0)
    images = jnp.array(rng.uniform(0, 255, (2, side, side, 3)), jnp.float32)
    labels = jnp.array([1, 4])
    method = functools.partial(lrp, network, targets=labels, epsilon=0.0)
    maps = jax.jit(method)(images)
    scores = jax.jit(network)(images)[0][jnp.arange(2), labels]
    np.testing.assert_allclose(maps.sum((1, 2)), scores, rtol=1e-3)


class _Mixed(nn.Module):
    """A network with a normalisation and logits in float32."""

    dtype: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.relu(nn.Conv(8, (3, 3), dtype=self.dtype)(x))
        return nn.Dense(4, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)


@pytest.mark.parametrize("rule", RULES)
def test_mixed_precision_is_close(rule):
    _, images = networks.arrays()
    variables = _Mixed("float32").init(jax.random.key(0), images)
    exact, rounded = (
        _relevance(lambda x, d=d: _Mixed(d).apply(variables, x), RULES[rule], images)
        for d in ("float32", "bfloat16")
    )
    assert np.isfinite(rounded).all()
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("rule", RULES)
def test_batch_normalisation_belongs_to_a_layer_of_an_adapter(rule):
    _, images = networks.arrays()
    module = _Mixed("float32")
    variables = module.init(jax.random.key(0), images)
    variables["batch_stats"]["BatchNorm_0"]["mean"] += jnp.linspace(-0.5, 0.5, 8)
    adapted = attr.from_linen(module, variables)
    function = attr.from_function(lambda x: module.apply(variables, x))
    maps = lrp(adapted, images, rule=RULES[rule])
    expected = lrp(function, images, rule=RULES[rule])
    np.testing.assert_allclose(maps, expected, atol=1e-5 * np.abs(expected).max())


def test_functions_that_are_infinite_at_0_are_refused():
    x = jnp.ones((1, 3))
    for function, name in (
        (jax.nn.logsumexp, "log"),
        (lambda x: x * jnp.log(x), "mul"),
        (jax.lax.reciprocal, "integer_pow"),
    ):
        with pytest.raises(ValueError, match=f"LRP has no rule .* primitive '{name}'"):
            with_rules(jax.jit(function), LRP(epsilon()))(x)


def test_a_composite_uses_each_rule_at_its_depth():
    parameters, images = networks.arrays()
    network = functools.partial(networks.convolutional, jax.nn.relu, parameters)

    def marked(number):  # stands for a rule, to see which layers it gets
        return lambda layer: (jnp.full_like(layer.outputs, number),) * 2

    rule = by_depth((0.4, marked(2.0)), (0.7, marked(3.0)), (1.0, marked(5.0)))
    plain = _relevance(
        network, lambda layer: (jnp.ones_like(layer.outputs),) * 2, images
    )
    np.testing.assert_allclose(
        _relevance(network, rule, images), 2 * 3 * 5 * plain, rtol=1e-4, atol=1e-5
    )


def test_layers_of_an_unused_head_do_not_count():
    rng = np.random.default_rng(0)
    first, square, last = (
        jnp.array(rng.normal(size=size), jnp.float32)
        for size in ((5, 4), (4, 4), (4, 2))
    )
    x = jnp.array(rng.normal(size=(3, 5)), jnp.float32)

    @jax.jit
    def heads(x):
        y = x @ first
        logits = jax.nn.relu(y + 0.3) @ last
        return {"logits": logits, "auxiliary": jax.nn.relu(y @ square) @ last}

    def network(x):
        return jax.nn.relu(x @ first + 0.3) @ last

    # The last of 2 layers has the depth 0.75, the last of 4 layers 0.875.
    rule = by_depth((0.8, gamma(0.3)), (1.0, epsilon(0.5)))
    actual = _relevance(lambda x: heads(x)["logits"], rule, x)
    expected = _relevance(network, gamma(0.3), x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_default_is_a_composite():
    parameters, images = networks.arrays()

    def network(images):
        return networks.convolutional(jax.nn.relu, parameters, images), {}

    composite = by_depth((0.5, gamma(0.4)), (1.0, epsilon(0.2)))
    for options, rule in (
        ({"gamma": 0.4, "epsilon": 0.2}, composite),
        ({"gamma": 0.4, "depth": 1.0}, gamma(0.4)),
        ({"epsilon": 0.2, "depth": 0.0}, epsilon(0.2)),
    ):
        np.testing.assert_allclose(
            lrp(network, images, jnp.array([1, 1]), **options),
            _relevance(lambda x: network(x)[0], rule, images).sum(-1),
            rtol=1e-4,
            atol=1e-5,
        )


def test_rules_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="alpha 2.0 and beta 0.5 differ by 1.5; exp"):
        alpha_beta(2.0, 0.5)
    for parts in ((), ((0.5, gamma()),), ((0.7, gamma()), (0.5, gamma()))):
        with pytest.raises(ValueError, match="expected rising numbers that end with 1"):
            by_depth(*parts)
