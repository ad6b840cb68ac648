"""Haiku networks: ResNet18 split by hand, with and without state and random keys."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import attribution as attr
from tests.attribution.adapters import hand_split

LABELS = jnp.array([1, 3])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.array(rng.uniform(0, 255, (2, 64, 64, 3)), jnp.float32)


def preprocess(images):
    return images / 127.5 - 1


def _resnet(images, is_training=False):
    return hk.nets.ResNet18(5)(images, is_training)


def _lower(images):
    network = hk.nets.ResNet18(5)
    x = network.initial_batchnorm(network.initial_conv(images), False)
    x = hk.max_pool(jax.nn.relu(x), (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for group in network.block_groups[:3]:
        x = group(x, False, False)
    return x


def _upper(x):
    network = hk.nets.ResNet18(5)
    x = network.block_groups[3](x, False, False)
    return network.logits(x.mean((1, 2)))


@pytest.fixture(scope="module")
def variables(images):
    """Return random parameters and batch statistics of ResNet18."""
    init = jax.jit(hk.transform_with_state(_resnet).init, static_argnums=2)
    params, state = init(jax.random.key(0), images, True)
    rng = np.random.default_rng(0)

    def draw(array, low, high):
        return jnp.array(rng.uniform(low, high, array.shape), jnp.float32)

    params["res_net18/~/logits"]["w"] = draw(params["res_net18/~/logits"]["w"], -1, 1)
    state = {
        name: {**values, "average": draw(values["average"], -0.1, 0.1)}
        if name.endswith("mean_ema")
        else {**values, "average": draw(values["average"], 0.5, 1.5)}
        for name, values in state.items()
    }
    return params, state


APPLY = {
    "with a key": hk.transform_with_state(_resnet).apply,
    "without a key": hk.without_apply_rng(hk.transform_with_state(_resnet)).apply,
    "jitted": jax.jit(hk.without_apply_rng(hk.transform_with_state(_resnet)).apply),
}


@pytest.mark.parametrize("apply", APPLY.values(), ids=APPLY)
def test_resnet_is_split_by_hand(apply, variables, images):
    lower, upper = (
        hk.without_apply_rng(hk.transform_with_state(function)).apply
        for function in (_lower, _upper)
    )
    if hasattr(apply, "lower"):
        apply(*variables, preprocess(images))  # traced without names
    network = attr.from_haiku(
        apply, *variables, preprocess=preprocess, input_shape=(64, 64, 3)
    )
    layer = "res_net18/~/block_group_2"
    hand_split.check(
        network,
        images,
        LABELS,
        layer,
        jax.jit(lambda images: lower(*variables, preprocess(images))[0]),
        jax.jit(lambda x: upper(*variables, x)[0]),
    )
    layers = network.layers
    assert layers[layer] == (4, 4, 256) and layers["res_net18"] == (5,)
    assert set(variables[0]) <= set(layers)


def test_training_mode_does_not_change_the_state(variables, images):
    """The network uses the statistics of the batch and drops the new state."""
    apply = hk.transform_with_state(_resnet).apply
    network = attr.from_haiku(apply, *variables, is_training=True)
    logits, _ = jax.jit(network)(images)
    expected, state = jax.jit(apply, static_argnames="is_training")(
        *variables, None, images, is_training=True
    )
    hand_split.assert_close(logits, expected)
    name = "res_net18/~/initial_batchnorm/~/mean_ema"
    assert (state[name]["average"] != variables[1][name]["average"]).any()


def test_random_keys(images):
    def noisy(images):
        x = images.mean((1, 2))
        return x + jax.random.normal(hk.next_rng_key(), x.shape)

    key = jax.random.key(3)
    apply = hk.transform(noisy).apply
    network = attr.from_haiku(apply, {}, rng=key)
    np.testing.assert_allclose(network(images)[0], apply({}, key, images), rtol=1e-6)
    with pytest.raises(ValueError, match="rng|PRNG"):
        attr.from_haiku(apply, {})(images)


def test_modules_that_are_called_twice_and_return_tuples(images):
    class Twice(hk.Module):
        def __call__(self, x):
            inner = hk.Linear(3, with_bias=False, name="inner")
            return inner(x), inner(inner(x))

    function = hk.transform(lambda x: Twice(name="twice")(x.mean((1, 2)))[1])
    params = function.init(jax.random.key(0), images)
    network = attr.from_haiku(hk.without_apply_rng(function).apply, params)
    logits, endpoints = network(images)
    inner = [f"twice/inner{number}" for number in ("", "#2", "#3")]
    assert list(endpoints) == [*inner, "twice[0]", "twice[1]"]
    np.testing.assert_array_equal(endpoints["twice[1]"], logits)
    gain = network(images, {inner[1]: jnp.ones((2, 3))})[0] - logits
    expected = params["twice/inner"]["w"].sum(0)
    np.testing.assert_allclose(gain, [expected] * 2, atol=1e-4)


def test_state_that_does_not_fit(variables):
    with pytest.raises(ValueError, match="apply takes a state; pass the state"):
        attr.from_haiku(hk.transform_with_state(_resnet).apply, variables[0])
    with pytest.raises(ValueError, match="apply takes no state; leave the state out"):
        attr.from_haiku(hk.transform(_resnet).apply, *variables)


def test_a_call_of_a_base_class_is_no_call_of_a_layer(images):
    class Rectified(hk.Conv2D):
        def __call__(self, x):
            return jax.nn.relu(super().__call__(x))

    def apply_to(layer):
        function = hk.transform(lambda x: layer(4, 3, name="conv")(x))
        return hk.without_apply_rng(function)

    plain = apply_to(hk.Conv2D)
    params = plain.init(jax.random.key(0), images)
    network = attr.from_haiku(
        apply_to(Rectified).apply, params, output=lambda y: y.mean((1, 2))
    )
    endpoints = network(images)[1]
    expected = plain.apply(params, images)
    assert list(endpoints) == ["conv"] and expected.min() < 0
    hand_split.assert_close(endpoints["conv"], jax.nn.relu(expected))


def test_parameters_of_a_stack_are_no_layers(images):
    def stack(images):
        layer = hk.layer_stack(3)(lambda x: jnp.tanh(hk.Linear(3, name="inner")(x)))
        return layer(images.mean((1, 2)) / 255)

    function = hk.without_apply_rng(hk.transform(stack))
    params = function.init(jax.random.key(0), images)
    network = attr.from_haiku(function.apply, params)
    logits, endpoints = network(images)
    assert list(endpoints) == ["inner", "inner#2", "inner#3"]
    hand_split.assert_close(logits, function.apply(params, images))
