"""DeepLIFT: multipliers in closed form, completeness, and captum on VGG16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seeflower_jax import models
from seeflower_jax.attribution import targets
from seeflower_jax.attribution.methods.deep_lift import deep_lift
from seeflower_jax.attribution.rules import DeepLift, with_rules
from tests import fixtures

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "lax_clamp": lambda x: lax.clamp(0.0, x, 6.0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,
    "exact_gelu": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "silu_by_hand": lambda x: x / (1 + jnp.exp(-x)),
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "cube": lambda x: x**3,
    "step": lambda x: jnp.where(x > 0, 1.0, 0.0),
    "step_of_booleans": lambda x: (x > 0).astype(jnp.float32),
}


def _sums(function, x, x0):
    """Return (the sum of the contributions, the difference of the outputs)."""
    lifted = with_rules(function, DeepLift(x0))
    multipliers = jax.grad(lambda x: lifted(x).sum())(x)
    return (multipliers * (x - x0)).sum(), function(x).sum() - function(x0).sum()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_function_is_rescaled_as_a_whole(name):
    act = ACTIVATIONS[name]
    x = jnp.array([-2.0, -1.0, 0.5, 3.0, 8.0, 1.2])
    x0 = jnp.array([1.0, -3.0, -0.5, 7.0, 7.0, 1.2])
    lifted = with_rules(lambda x: act(3 * x), DeepLift(x0))
    actual = jax.grad(lambda x: lifted(x).sum())(x)
    slopes = (act(3 * x) - act(3 * x0))[:-1] / (x - x0)[:-1]
    np.testing.assert_allclose(actual[:-1], slopes, rtol=1e-4, atol=1e-6)
    derivative = jax.grad(lambda x: act(3 * x))(x[-1])  # where nothing differs
    np.testing.assert_allclose(actual[-1], derivative, rtol=1e-6)


def _attention(x):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    weights = jax.nn.softmax(jnp.einsum("nic,njc->nij", x, x) / 2)
    return jnp.einsum("nij,njc->nic", weights, jax.nn.gelu(x))


def masked_mean(x):
    """Return the mean of the positive elements."""
    mask = (x > 0).astype(jnp.float32)
    return (x * mask).sum() / mask.sum()


def _pooled(x):
    window = (1, 3, 3)
    highest = lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 2, 2), "SAME")
    lowest = lax.reduce_window(x, jnp.inf, lax.min, window, (1, 1, 1), "VALID")
    return highest.sum() * x.max() + jnp.maximum(lowest, x[:, 1:-1, 1:-1]).sum()


@pytest.mark.parametrize("function", [_attention, masked_mean, _pooled])
def test_products_quotients_and_extrema_are_complete(function):
    rng = np.random.default_rng(0)
    x, x0 = (jnp.array(rng.normal(size=(2, 7, 7)), jnp.float32) for _ in range(2))
    total, difference = _sums(function, x, x0)
    np.testing.assert_allclose(total, difference, rtol=1e-4)


def test_a_product_is_the_mean_over_both_orders():
    x, x0 = jnp.array([3.0, 5.0]), jnp.array([1.0, 2.0])
    lifted = with_rules(lambda x: x[0] * x[1] + x[1] / x[0], DeepLift(x0))
    first = (3 - 1) * (2 + 5) / 2 + (2 / 3 - 2 / 1 + 5 / 3 - 5 / 1) / 2
    second = (5 - 2) * (1 + 3) / 2 + (5 / 1 - 2 / 1 + 5 / 3 - 2 / 3) / 2
    np.testing.assert_allclose(
        jax.grad(lifted)(x) * (x - x0), [first, second], rtol=1e-6
    )


SPECS = {
    "vgg16": {"pooling": "average", "input_size": 64},
    "vgg16 root_moments": {"pooling": "root_moments", "input_size": 64},
    "small": {"input_size": 64, "width": 0.3},
    "baseline": {"input_size": 32},
    "inception_v3": {"input_size": 96},
}


def _check_sums(name, chosen):
    options = {"num_classes": 5, "width": 0.1} | SPECS[name]
    spec = models.get_spec(name.partition(" ")[0], **options)
    variables = fixtures.random_variables(spec, 0)
    network = functools.partial(models.apply, spec, variables)
    side, rng = spec.input_size, np.random.default_rng(0)
    images = jnp.array(rng.uniform(0, 255, (2, side, side, 3)), jnp.float32)
    method = functools.partial(deep_lift, network, targets=chosen, baseline=30.0)
    maps = jax.jit(method)(images)
    scores, baseline_scores = (
        targets.score(jax.jit(network)(x)[0], chosen)
        for x in (images, jnp.full_like(images, 30))
    )
    np.testing.assert_allclose(
        maps.sum((1, 2)), scores - baseline_scores, rtol=1e-3, atol=1e-5
    )


@pytest.mark.long
@pytest.mark.parametrize("name", SPECS)
def test_maps_sum_to_the_difference_of_the_scores(name):
    _check_sums(name, jnp.array([1, 4]))


def test_the_score_may_be_any_function_of_the_logits():
    _check_sums("baseline", targets.probability(jnp.array([1, 4])))


def test_a_condition_on_the_images_is_refused():
    network = with_rules(lambda x: jnp.where(x > x.mean(), x, 0), DeepLift(0.0))
    with pytest.raises(ValueError, match="no rule for the primitive 'select_n'"):
        network(jnp.arange(3.0))
