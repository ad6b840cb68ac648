"""Equinox models: split by hand, transformed, called twice, and with state."""

import equinox as eqx
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
    return jnp.array(rng.uniform(0, 255, (2, 32, 48, 3)), jnp.float32)


class Block(eqx.Module):
    """A residual block with batch normalisation, which has a state."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, features, key):
        self.conv = eqx.nn.Conv2d(features, features, 3, padding=1, key=key)
        self.norm = eqx.nn.BatchNorm(features, "batch", mode="batch")

    def __call__(self, x, state):
        y, state = self.norm(self.conv(x), state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    """A residual network in two halves, which can be called one after the other."""

    stem: eqx.nn.Conv2d
    blocks: list[Block]
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.stem = eqx.nn.Conv2d(3, 8, 3, 2, key=keys[0])
        self.blocks = [Block(8, key) for key in keys[1:4]]
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(8, 5, key=keys[4])

    def lower(self, x, state):
        x = jax.nn.relu(self.stem(x / 127.5 - 1))
        x, state = self.blocks[0](x, state)
        return self.blocks[1](x, state)

    def upper(self, x, state):
        x, state = self.blocks[2](x, state)
        return self.head(self.dropout(x.mean((1, 2)))), state

    @eqx.filter_jit
    def __call__(self, x, state):
        return self.upper(*self.lower(x, state))


@pytest.fixture(scope="module")
def resnet(images):
    """Return a residual network and its state after a batch in training mode."""
    model, state = eqx.nn.make_with_state(ResNet)(jax.random.key(0))
    without_dropout = eqx.tree_at(lambda m: m.dropout.inference, model, True)
    train = jax.vmap(without_dropout, (0, None), (0, None), axis_name="batch")
    return model, train(jnp.moveaxis(images, -1, 1), state)[1]


def test_residual_network_is_split_by_hand(resnet, images):
    model, state = resnet
    inference = eqx.nn.inference_mode(model)

    def lower(images):
        lower_half = jax.vmap(lambda x: inference.lower(x, state)[0])
        return jnp.moveaxis(lower_half(jnp.moveaxis(images, -1, 1)), 1, -1)

    def upper(x):
        return jax.vmap(lambda x: inference.upper(x, state)[0])(jnp.moveaxis(x, -1, 1))

    inference(images[0].T, state)  # Traces the body of `jit` without names.
    network = attr.from_equinox(model, state, input_shape=(32, 48, 3))
    hand_split.check(network, images, LABELS, "blocks/1", lower, upper)
    expected = ["blocks/2/conv", "blocks/2/norm", "blocks/2", "dropout", "head"]
    assert list(network.layers)[-5:] == expected
    assert not model.dropout.inference
    assert "name[name" not in str(jax.make_jaxpr(upper)(lower(images)))


class Twice(eqx.Module):
    """Calls a layer twice, and maps it over tokens."""

    inner: eqx.nn.Linear

    def __call__(self, tokens):
        tokens = jax.vmap(self.inner)(tokens)
        return jax.vmap(self.inner, in_axes=1, out_axes=1)(tokens.T)


class Tokens(eqx.Module):
    """Takes every pixel as a token, and shares a layer by two attributes."""

    twice: Twice
    shared: eqx.nn.Linear

    def __call__(self, image, key):
        tokens = self.twice(image.reshape(3, -1).T / 255)
        return {"logits": self.shared(tokens.mean(1))}


def test_layers_that_are_mapped_over_tokens(images):
    inner = eqx.nn.Linear(3, 3, use_bias=False, key=jax.random.key(0))
    model = Tokens(Twice(inner), inner)
    network = attr.from_equinox(model, output=lambda y: y["logits"], key=None)
    logits, endpoints = network(images)
    assert list(endpoints) == ["twice/inner", "twice/inner#2", "twice", "shared"]
    pixels = images.reshape(2, -1, 3) / 255
    once, twice = pixels @ inner.weight.T, pixels @ inner.weight.T @ inner.weight.T
    np.testing.assert_allclose(endpoints["twice/inner"], once, atol=1e-5)
    np.testing.assert_allclose(endpoints["twice/inner#2"], twice, atol=1e-5)
    mean = twice.mean(1)
    np.testing.assert_allclose(logits, mean @ inner.weight.T, atol=1e-5)
    tap = jnp.ones_like(twice)
    gain = network(images, {"twice/inner#2": tap})[0] - logits
    expected = jnp.broadcast_to(inner.weight.sum(1), (2, 3))
    np.testing.assert_allclose(gain, expected, atol=1e-5)


class Cells(eqx.Module):
    """Layers with stacked parameters, evaluated by a scan."""

    cells: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.cells = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 3, key=key))(keys)

    def __call__(self, image):
        arrays, static = eqx.partition(self.cells, eqx.is_array)

        def step(x, arrays):
            return jnp.tanh(eqx.combine(arrays, static)(x)), None

        return jax.lax.scan(step, image.mean((1, 2)) / 255, arrays)[0]


def test_scanned_layers(images):
    model = Cells(jax.random.key(0))
    network = attr.from_equinox(model)
    logits, endpoints = network(images)
    assert list(endpoints) == ["cells", "cells#2", "cells#3"]
    expected = jax.vmap(model)(jnp.moveaxis(images, -1, 1))
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    np.testing.assert_allclose(jnp.tanh(endpoints["cells#3"]), logits, atol=1e-6)


def test_images_with_channels_last(images):
    model = eqx.nn.Lambda(lambda image: image[0, 0])
    network = attr.from_equinox(model, channels_first=False)
    np.testing.assert_array_equal(network(images)[0], images[:, 0, 0])


def test_models_of_another_framework_are_refused():
    with pytest.raises(TypeError, match="equinox.*got an object of <class 'function'>"):
        attr.from_equinox(lambda image: image)


def test_a_model_without_its_state_is_refused(resnet):
    with pytest.raises(ValueError, match="have a state; pass it as `state`"):
        attr.from_equinox(resnet[0])


class Normalised(eqx.Module):
    """Returns two values before its state."""

    norm: eqx.nn.BatchNorm

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return x, x.mean(), state


class Tied(eqx.Module):
    """Returns an object, and uses two layers with the same weights."""

    normalised: Normalised
    shared: eqx.nn.Shared

    def __init__(self, key):
        self.normalised = Normalised(eqx.nn.BatchNorm(3, "batch", mode="batch"))
        linears = [eqx.nn.Linear(3, 3, key=key) for _ in range(2)]
        self.shared = eqx.nn.Shared(
            linears, lambda p: p[1].weight, lambda p: p[0].weight
        )

    def __call__(self, x, state):
        x, _, state = self.normalised(x, state)
        first, second = self.shared()
        return second(first(x.mean((1, 2)))), state


def test_states_and_weights_are_no_layers(images):
    model, state = eqx.nn.make_with_state(Tied)(jax.random.key(0))
    network = attr.from_equinox(model, state)
    logits, endpoints = network(images)
    expected = ["normalised/norm", "normalised[0]", "normalised[1]"]
    assert list(endpoints) == [*expected, "shared/pytree/0", "shared/pytree/1"]
    x = endpoints["normalised[0]"].mean((1, 2))
    linear = model.shared.pytree[0]
    second = model.shared.pytree[1]
    y = (x @ linear.weight.T + linear.bias) @ linear.weight.T + second.bias
    np.testing.assert_allclose(logits, y, atol=1e-5)


class Values(eqx.Module):
    """An object of results, which is no layer."""

    logits: jax.Array
    features: jax.Array


class Extractor(eqx.Module):
    """Returns an object of results."""

    def __call__(self, x, key=None):
        return Values(x.mean((1, 2)), x)


def test_objects_of_results_have_layers(images):
    model = eqx.nn.Sequential([eqx.nn.Lambda(lambda x: x / 255), Extractor()])
    network = attr.from_equinox(model, output=lambda y: y.logits)
    endpoints = network(images)[1]
    expected = ["layers/0", "layers/1.logits", "layers/1.features"]
    assert list(endpoints) == expected
    np.testing.assert_allclose(endpoints["layers/1.features"], images / 255, rtol=1e-6)


class Experts(eqx.Module):
    """Stacks or selects its layers while it is called."""

    experts: list[eqx.nn.Linear]
    is_stacked: bool = True

    def __call__(self, x):
        first, second = self.experts
        x = x.mean((1, 2))
        if self.is_stacked:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), first, second)
            return jax.vmap(lambda expert: expert(x))(stacked).sum(0)
        return jax.lax.cond(x.sum() > 0, lambda: first, lambda: second)(x)


@pytest.mark.parametrize("is_stacked", [True, False])
def test_models_that_stack_their_layers(is_stacked, images):
    keys = jax.random.split(jax.random.key(0))
    model = Experts([eqx.nn.Linear(3, 5, key=key) for key in keys], is_stacked)
    with pytest.raises(ValueError, match="stacks or selects.*checkpoint_name.*single"):
        attr.from_equinox(model)(images)
    network = attr.from_function(model, single=True, channels_first=True)
    expected = jax.vmap(model)(jnp.moveaxis(images, -1, 1))
    np.testing.assert_allclose(network(images)[0], expected, rtol=1e-5)
