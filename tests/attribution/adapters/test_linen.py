"""Linen modules: split by hand, lifted, called twice, and with state."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from flax.linen import transforms

from seeflower_jax import attribution as attr
from seeflower_jax import models
from tests import fixtures
from tests.attribution.adapters import hand_split

LABELS = jnp.array([1, 3])


def preprocess(images):
    return images / 127.5 - 1


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.array(rng.uniform(0, 255, (2, 32, 48, 3)), jnp.float32)


class Block(nn.Module):
    """A residual block with batch normalisation."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x, train):
        conv = functools.partial(nn.Conv, self.features, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        y = nn.relu(norm(name="norm1")(conv((3, 3), self.strides, name="conv1")(x)))
        y = norm(name="norm2")(conv((3, 3), name="conv2")(y))
        if x.shape != y.shape:
            x = conv((1, 1), self.strides, name="shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network in two halves, which can be called one after the other."""

    block: type[nn.Module] = Block

    def setup(self):
        self.stem = nn.Conv(8, (3, 3), 2)
        self.blocks = [self.block(8), self.block(16, 2), self.block(16)]
        self.head = nn.Dense(5)

    def lower(self, x, train):
        return self.blocks[1](self.blocks[0](nn.relu(self.stem(x)), train), train)

    def upper(self, x, train):
        return self.head(self.blocks[2](x, train).mean((1, 2)))

    def __call__(self, x, train=True):
        return self.upper(self.lower(x, train), train)


@pytest.fixture(scope="module")
def variables(images):
    variables = ResNet().init(jax.random.key(0), images, train=False)
    rng = np.random.default_rng(0)

    def draw(path, x):
        low, high = {"mean": (-0.2, 0.2), "var": (0.5, 1.5)}[path[-1].key]
        return jnp.array(rng.uniform(low, high, x.shape))

    stats = jax.tree_util.tree_map_with_path(draw, variables["batch_stats"])
    return {"params": variables["params"], "batch_stats": stats}


BLOCKS = {
    "plain": Block,
    "remat": nn.remat(Block, static_argnums=2),
    "jit": nn.jit(Block, static_argnums=2),
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_residual_network_is_split_by_hand(block, variables, images):
    plain, module = ResNet(), ResNet(block)
    jax.jit(functools.partial(module.apply, train=False))(variables, images)
    network = attr.from_linen(
        module, variables, preprocess=preprocess, input_shape=(32, 48, 3), train=False
    )

    def lower(images):
        return plain.apply(variables, preprocess(images), False, method="lower")

    def upper(x):
        return plain.apply(variables, x, False, method="upper")

    hand_split.check(network, images, LABELS, "blocks_1", lower, upper)
    assert network.layers["blocks_1/conv1"] == (8, 12, 16)
    expected = [f"blocks_2/{name}" for name in ("conv1", "norm1", "conv2", "norm2")]
    assert list(network.layers)[-6:] == [*expected, "blocks_2", "head"]


def test_training_mode_is_refused(variables, images):
    network = attr.from_linen(ResNet(), variables, train=True)
    with pytest.raises(ValueError, match='"mean" in "/blocks_0/norm1".*train=False'):
        network(images)
    # The context of the failed call has ended.
    logits = ResNet().apply(variables, images, train=False)
    program = jax.make_jaxpr(functools.partial(ResNet().apply, train=False))
    assert logits.shape == (2, 5) and "name[name" not in str(program(variables, images))


class Cell(nn.Module):
    """A layer of a stack, which returns a tuple."""

    @nn.compact
    def __call__(self, x, _):
        x = nn.tanh(nn.Dense(4, name="dense")(x))
        return x, x.sum()


class Stack(nn.Module):
    """Three layers with stacked parameters, evaluated by a scan."""

    @nn.compact
    def __call__(self, x):
        scanned = nn.scan(
            Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x = nn.Dense(4, name="stem")(x.mean((1, 2)))
        return scanned(name="cells")(x, None)[0]


def test_scanned_layers(images):
    variables = Stack().init(jax.random.key(0), images)
    network = attr.from_linen(Stack(), variables, preprocess=preprocess)
    logits, endpoints = network(images)
    kernels = variables["params"]["cells"]["dense"]["kernel"]
    x = endpoints["stem"]
    for step, number in enumerate(("", "#2", "#3")):
        x = x @ kernels[step]
        np.testing.assert_allclose(endpoints[f"cells/dense{number}"], x, atol=1e-6)
        x = jnp.tanh(x)
        np.testing.assert_allclose(endpoints[f"cells[0]{number}"], x, atol=1e-6)
    np.testing.assert_allclose(logits, x, atol=1e-6)

    def tapped(tap):
        return network(images, {"cells[0]#2": tap})[0].sum()

    gradient = jax.grad(tapped)(jnp.zeros((2, 4)))
    expected = (1 - logits**2) @ kernels[2].T
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_networks_of_this_package(images):
    """The adapter and the taps of this package agree."""
    spec = models.get_spec("small", num_classes=5)
    variables = fixtures.random_variables(spec, 0)
    network = attr.from_linen(
        models.build(spec),
        variables,
        preprocess=models.PREPROCESS[spec.preprocess],
        output=lambda outputs: outputs[0],
    )
    logits, endpoints = network(images)
    bound = models.bind(spec, variables)
    expected_logits, expected = bound(images)
    np.testing.assert_array_equal(logits, expected_logits)
    np.testing.assert_array_equal(endpoints["backbone/block4"], expected["block4"])
    maps = attr.grad_cam(network, images, LABELS, layer="backbone/block4", relu=False)
    expected = attr.grad_cam(bound, images, LABELS, layer="block4", relu=False)
    hand_split.assert_close(maps, expected)


class RectifiedConv(nn.Conv):
    """A subclass that calls the method of its base class."""

    @nn.compact
    def __call__(self, x):
        return nn.relu(super().__call__(x))


class RectifiedJit(nn.jit(nn.Conv)):
    """A subclass of a class with a lifted method."""

    def __call__(self, x):
        return nn.relu(super().__call__(x))


class Single(nn.Module):
    """The mean of the outputs of one layer."""

    layer: type[nn.Module]
    name_of_layer: str = "conv"

    @nn.compact
    def __call__(self, x):
        return self.layer(4, (3, 3), name=self.name_of_layer)(x).mean((1, 2))


class Dropped(nn.Module):
    """A network in training mode, unless it is called otherwise."""

    drops: bool

    @nn.compact
    def __call__(self, x, train=True):
        if self.drops:
            return nn.Dropout(0.5, deterministic=not train)(x).mean((1, 2))
        return nn.BatchNorm(use_running_average=not train)(x).mean((1, 2))


@pytest.mark.parametrize("drops", [False, True])
def test_a_network_in_training_mode_is_refused(images, drops):
    module = Dropped(drops)
    variables = module.init(jax.random.key(0), images, train=False)
    with pytest.raises(ValueError, match="not in inference mode.*such as train=False"):
        attr.from_linen(module, variables)(images)
    network = attr.from_linen(module, variables, train=False)
    assert network(images)[0].shape == (len(images), 3)


@pytest.mark.parametrize(
    "layer",
    [RectifiedConv, nn.jit(RectifiedConv), nn.remat(RectifiedConv), RectifiedJit],
)
def test_a_call_of_a_base_class_is_no_call_of_a_layer(layer, images):
    variables = Single(layer).init(jax.random.key(0), images)
    endpoints = attr.from_linen(Single(layer), variables)(images)[1]
    expected = nn.Conv(4, (3, 3)).apply({"params": variables["params"]["conv"]}, images)
    assert list(endpoints) == ["conv"] and expected.min() < 0
    hand_split.assert_close(endpoints["conv"], nn.relu(expected))


class JitBlock(nn.Module):
    """A layer in a method that Flax compiles."""

    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="dense")(x)


class Linear(nn.Module):
    """The same layer in a plain method."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="dense")(x)


class Blocks(nn.Module):
    """Equal blocks, which Flax traces only once."""

    block: type[nn.Module]

    def setup(self):
        self.blocks = [self.block() for _ in range(2)]

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((1, 2))


@pytest.mark.parametrize("block", [JitBlock, nn.jit(Linear)])
def test_equal_blocks_of_jit_have_their_own_names(block, images):
    fingerprint = transforms._module_fingerprint
    module = Blocks(block)
    variables = module.init(jax.random.key(0), images)
    logits, endpoints = attr.from_linen(module, variables)(images)
    first, second = (["blocks_0/dense", "blocks_0"], ["blocks_1/dense", "blocks_1"])
    assert list(endpoints) == first + second
    hand_split.assert_close(logits, module.apply(variables, images))
    assert transforms._module_fingerprint is fingerprint


def test_equal_layers_of_two_networks_have_their_own_names(images):
    layer = nn.jit(nn.Conv)
    for name in ("first", "second"):
        module = Single(layer, name)
        variables = module.init(jax.random.key(0), images)
        assert list(attr.from_linen(module, variables)(images)[1]) == [name]


class Branches(nn.Module):
    """Returns a dict whose keys are not sorted."""

    make: Callable

    @nn.compact
    def __call__(self, x):
        return self.make({"low": nn.Dense(2)(x), "high": nn.Dense(4)(x)})


class LastBranch(nn.Module):
    """Uses the last value of a dict."""

    make: Callable

    @nn.compact
    def __call__(self, x):
        branches = Branches(self.make, name="branches")(x.mean((1, 2)))
        assert isinstance(branches, type(self.make({})))
        return list(branches.values())[-1]


@pytest.mark.parametrize("make", [dict, FrozenDict])
def test_dicts_of_modules_keep_their_order(images, make):
    module = LastBranch(make)
    variables = module.init(jax.random.key(0), images)
    logits, endpoints = attr.from_linen(module, variables)(images)
    hand_split.assert_close(logits, module.apply(variables, images))
    assert list(endpoints)[2:] == ["branches['low']", "branches['high']"]


def test_versions_of_flax_without_the_private_function(images, monkeypatch):
    monkeypatch.delattr(transforms, "_module_fingerprint")
    variables = Single(nn.Conv).init(jax.random.key(0), images)
    assert list(attr.from_linen(Single(nn.Conv), variables)(images)[1]) == ["conv"]
