"""NNX models: split by hand, transformed, called twice, and with state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from seeflower_jax import attribution as attr
from tests import harness
from tests.attribution.adapters import hand_split

LABELS = jnp.array([1, 3])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.array(rng.uniform(0, 255, (2, 32, 48, 3)), jnp.float32)


class Block(nnx.Module):
    """A residual block with batch normalisation."""

    def __init__(self, features, rngs):
        self.conv1 = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(x + self.norm2(self.conv2(y)))


class Lifted(Block):
    """The same block, with layers inside of transformations."""

    @nnx.jit
    def __call__(self, x):
        y = self.norm1(nnx.remat(lambda conv, x: conv(x))(self.conv1, x))
        return nnx.relu(x + self.norm2(self.conv2(nnx.relu(y))))


class ResNet(nnx.Module):
    """A residual network in two halves, which can be called one after the other."""

    def __init__(self, block, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), 2, rngs=rngs)
        self.blocks = nnx.List([block(8, rngs) for _ in range(3)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def lower(self, x):
        return self.blocks[1](self.blocks[0](nnx.relu(self.stem(x / 127.5 - 1))))

    def upper(self, x):
        return self.head(self.dropout(self.blocks[2](x).mean((1, 2))))

    def __call__(self, x):
        return self.upper(self.lower(x))


def resnet(block=Block):
    model = ResNet(block, nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.mean[...] = jnp.array(rng.uniform(-0.2, 0.2, 8))
            module.var[...] = jnp.array(rng.uniform(0.5, 1.5, 8))
    return model


@pytest.mark.parametrize("block", [Block, Lifted])
def test_residual_network_is_split_by_hand(block, images):
    plain, model = resnet(), resnet(block)
    plain.eval()
    view = nnx.view(model, deterministic=True, use_running_average=True)
    view(images)  # Traces the body of `nnx.jit` without names.
    nnx.view(model, deterministic=True, use_running_average=True)(
        images
    )  # fills caches
    network = attr.from_nnx(model, input_shape=(32, 48, 3))
    hand_split.check(network, images, LABELS, "blocks/1", plain.lower, plain.upper)
    expected = [f"blocks/2/{name}" for name in ("conv1", "norm1", "conv2", "norm2")]
    assert list(network.layers)[-7:] == [*expected, "blocks/2", "dropout", "head"]
    assert network.layers["blocks/2/conv1"] == (16, 24, 8)


def test_model_keeps_its_mode_and_state(images):
    model = resnet()

    def arrays():
        state = nnx.state(model, nnx.Not(nnx.RngState))
        return jax.tree.map(np.array, nnx.to_pure_dict(state))

    before = arrays()
    network = attr.from_nnx(model)
    network(images)
    with pytest.raises(Exception, match="shape|dim"):
        network(images[..., :2])
    harness.assert_trees_equal(arrays(), before)
    assert not model.dropout.deterministic and type(model.blocks[0]) is Block
    assert not model.blocks[0].norm1.use_running_average


def test_network_keeps_its_values(images):
    model = resnet()
    network = attr.from_nnx(model)
    before = network(images)[0]
    model.train()
    model(images)
    model.head.bias[...] += 1
    np.testing.assert_array_equal(network(images)[0], before)


class Twice(nnx.Module):
    """Calls a layer twice, returns a tuple and keeps a count."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 3, rngs=rngs)
        self.calls = nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.calls[...] += 1
        y = self.inner(x)
        return y, {"again": self.inner(y)}


class Outer(nnx.Module):
    """Takes a second argument."""

    def __init__(self, rngs):
        self.twice = Twice(rngs)

    def __call__(self, x, scale):
        return {"logits": scale * self.twice(x.mean((1, 2)))[1]["again"]}


def test_modules_that_are_called_twice(images):
    model = Outer(nnx.Rngs(0))
    network = attr.from_nnx(model, output=lambda y: y["logits"], scale=2.0)
    logits, endpoints = network(images)
    expected = ["twice/inner", "twice/inner#2", "twice[0]", "twice[1]['again']"]
    assert list(endpoints) == expected
    np.testing.assert_array_equal(logits, model(images, 2.0)["logits"])
    np.testing.assert_array_equal(logits, 2 * endpoints["twice/inner#2"])
    assert model.twice.calls[...] == 1
    tap = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"'twice\[0\]' is computed but not used"):
        network(images, {"twice[0]": tap})
    gain = network(images, {"twice/inner": tap})[0] - logits
    np.testing.assert_allclose(gain, 2 * tap @ model.twice.inner.kernel[...], rtol=1e-4)


class Cells(nnx.Module):
    """Layers with stacked parameters, evaluated by a scan."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs):
            return nnx.Linear(3, 3, rngs=rngs)

        self.cells = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def apply(cell, x):
            return nnx.tanh(cell(x))

        return apply(self.cells, x.mean((1, 2)) / 255)


def test_scanned_layers(images):
    model = Cells(nnx.Rngs(0))
    network = attr.from_nnx(model)
    logits, endpoints = network(images)
    assert list(endpoints) == ["cells", "cells#2", "cells#3"]
    np.testing.assert_allclose(logits, model(images), atol=1e-6)
    np.testing.assert_allclose(jnp.tanh(endpoints["cells#3"]), logits, atol=1e-6)
    gradient = jax.grad(lambda tap: network(images, {"cells#3": tap})[0].sum())
    np.testing.assert_allclose(gradient(jnp.zeros((2, 3))), 1 - logits**2, atol=1e-6)


class Plain(nnx.Module, pytree=False):
    """A module that is no pytree, with layers inside of `nnx.jit`."""

    def __init__(self, rngs):
        self.blocks = [nnx.Conv(3, 3, (3, 3), rngs=rngs) for _ in range(2)]

    @nnx.jit
    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((1, 2))


class Bridged(bridge.Module):
    """A module in the style of Linen."""

    def __call__(self, x):
        return 2 * x


class Holder(nnx.Module, pytree=False):
    """Holds a module that is no pytree, a module of Linen, and one in its style."""

    def __init__(self, rngs):
        self.plain = Plain(rngs)
        linen = bridge.ToNNX(nn.Dense(5), rngs=rngs)
        self.dense = linen.lazy_init(jnp.zeros((1, 3)))
        self.bridged = Bridged()

    def __call__(self, x):
        return self.bridged(self.dense(self.plain(x)))


def test_modules_that_are_no_pytrees_and_modules_of_linen(images):
    model = Holder(nnx.Rngs(0))
    logits, endpoints = attr.from_nnx(model)(images)
    blocks = ["plain/blocks/0", "plain/blocks/1", "plain"]
    assert list(endpoints) == [*blocks, "dense", "bridged"]
    hand_split.assert_close(logits, model(images))
    np.testing.assert_array_equal(endpoints["bridged"], logits)
    np.testing.assert_array_equal(2 * endpoints["dense"], logits)
    x = endpoints["plain/blocks/0"]
    hand_split.assert_close(endpoints["plain/blocks/1"], model.plain.blocks[1](x))
