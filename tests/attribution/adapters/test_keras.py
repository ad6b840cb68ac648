"""Keras networks: ResNet50 against PyTorch and captum, and layers of many kinds."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
import torchvision
from captum import attr as captum

from seeflower_jax import attribution as attr
from tests.attribution.adapters import hand_split

LABELS = jnp.array([1, 3])


def preprocess(images):
    return images / 127.5 - 1


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.array(rng.uniform(0, 255, (2, 64, 64, 3)), jnp.float32)


@pytest.fixture(scope="module")
def resnet():
    """Return Keras' ResNet50 with random weights and random batch statistics."""
    keras.utils.set_random_seed(0)
    options = {"classes": 5, "classifier_activation": None}
    model = keras.applications.ResNet50(True, None, None, (64, 64, 3), **options)
    ranges = {"moving_mean": (-0.2, 0.2), "moving_variance": (0.5, 1.5)}
    ranges["gamma"] = (0.3, 0.6)  # Signals neither grow nor die along the blocks.
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ranges:
            variable.assign(rng.uniform(*ranges[variable.name], variable.shape))
    return model


def _torch_resnet(model):
    """Return torchvision's ResNet50 with the weights of Keras' ResNet50.

    Keras adds biases to convolutions, and moves the stride of a block to its first one.
    """
    network = torchvision.models.resnet50(num_classes=5).eval()

    def copy(conv, norm, name):
        kernel, bias = model.get_layer(f"{name}_conv").get_weights()
        conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
        conv.bias = torch.nn.Parameter(torch.tensor(bias))
        layer = model.get_layer(f"{name}_bn")
        arrays = map(torch.tensor, layer.get_weights())
        norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var = arrays
        norm.eps = layer.epsilon

    copy(network.conv1, network.bn1, "conv1")
    for number in range(1, 5):
        stage = getattr(network, f"layer{number}")
        for count, block in enumerate(stage, 1):
            name = f"conv{number + 1}_block{count}"
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
            for part in range(1, 4):
                layers = [getattr(block, f"{kind}{part}") for kind in ("conv", "bn")]
                copy(*layers, f"{name}_{part}")
            if block.downsample is not None:
                copy(*block.downsample, f"{name}_0")
    kernel, bias = model.get_layer("predictions").get_weights()
    network.fc.weight.data, network.fc.bias.data = map(torch.tensor, (kernel.T, bias))
    return network


def test_resnet_has_captum_maps(resnet, images):
    network = attr.from_keras(resnet, preprocess=preprocess)
    original = _torch_resnet(resnet)
    pixels = torch.tensor(np.moveaxis(images, -1, 1).copy(), requires_grad=True)

    def of_pixels(x):
        return original(preprocess(x))

    targets = torch.tensor(np.array(LABELS))
    logits = jax.jit(lambda network, images: network(images)[0])(network, images)
    hand_split.assert_close(logits, of_pixels(pixels).detach().numpy())
    saliency = captum.Saliency(of_pixels).attribute(pixels, targets).max(1)[0]
    compute = jax.jit(attr.saliency)
    hand_split.assert_close(compute(network, images, LABELS), saliency.detach().numpy())
    maps = captum.LayerGradCam(of_pixels, original.layer3).attribute(pixels, targets)
    maps = captum.LayerAttribution.interpolate(maps, (64, 64), "bilinear")[:, 0]
    compute = jax.jit(attr.grad_cam, static_argnames=("layer", "relu", "align"))
    options = {"layer": "conv4_block6_out", "relu": False, "align": "stretch"}
    actual = compute(network, images, LABELS, **options)
    hand_split.assert_close(actual, maps.detach().numpy())


def test_resnet_is_split_at_a_block(resnet, images):
    network = attr.from_keras(resnet, preprocess=preprocess)
    output = resnet.get_layer("conv3_block4_out").output
    lower, upper = (
        keras.Model(resnet.input, output),
        keras.Model(output, resnet.output),
    )
    hand_split.check(
        network,
        images,
        LABELS,
        "conv3_block4_out",
        jax.jit(lambda x: lower(preprocess(x))),
        jax.jit(upper),
    )


def test_layers_of_resnet(resnet):
    shapes = {layer.name: layer.output.shape[1:] for layer in resnet.layers[1:]}
    assert attr.from_keras(resnet).layers == shapes


def test_fit_and_predict_after_adapting(resnet, images):
    """Keras donates the arrays of a model, so the network has copies."""
    network = attr.from_keras(resnet, preprocess=preprocess)
    expected = resnet.predict(np.array(preprocess(images)), verbose=0)
    logits = jax.jit(lambda network, images: network(images)[0])(network, images)
    hand_split.assert_close(logits, expected)


class Twice(keras.layers.Layer):
    """Calls a layer twice, and returns a tuple."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = keras.layers.Dense(3, name="inner")

    def call(self, x):
        y = self.inner(x)
        return y, self.inner(y)


class Subclassed(keras.Model):
    """A model without a graph, and without an argument for training.

    One of its layers is in two places.
    """

    def __init__(self):
        super().__init__()
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool")
        self.twice = Twice(name="twice")
        self.parts = [self.twice, keras.layers.Dropout(0.9, name="drop")]

    def call(self, x):
        return self.parts[1](self.twice(self.pool(x))[1])


def test_subclassed_models(images):
    model = Subclassed()
    with pytest.raises(ValueError, match="has no variables yet; call it on images"):
        attr.from_keras(model)
    expected = model(images, training=False)
    network = attr.from_keras(model)
    logits, endpoints = network(images)
    hand_split.assert_close(logits, expected)
    names = ["pool", "twice/inner", "twice/inner#2", "twice[0]", "twice[1]", "drop"]
    assert list(endpoints) == names and list(network.layers) == names
    np.testing.assert_array_equal(endpoints["twice/inner"], endpoints["twice[0]"])
    tap = jnp.ones((2, 3))
    through = tap @ model.twice.inner.kernel.value
    for name, expected in zip(names[1:5], (through, tap, None, tap), strict=True):
        if expected is None:
            with pytest.raises(
                ValueError, match=r"'twice\[0\]' is computed but not used"
            ):
                network(images, {name: tap})
        else:
            gain = network(images, {name: tap})[0] - logits
            np.testing.assert_allclose(gain, expected, atol=1e-4)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


class Unscored(keras.layers.MultiHeadAttention):
    """Attention whose call cannot return the weights."""

    def call(self, query, value, key=None):
        return super().call(query, value, key)


@pytest.mark.parametrize(
    "make, has_weights",
    [
        (functools.partial(keras.layers.MultiHeadAttention, flash_attention=True), 1),
        (Unscored, 0),
    ],
)
def test_attention_of_every_kind_is_explained(make, has_weights, images):
    inputs = keras.Input((64, 64, 3))
    tokens = keras.layers.Conv2D(4, 32, 32)(inputs)
    tokens = keras.layers.Reshape((4, 4))(tokens)
    layer = make(2, 3, name="attention")
    logits = keras.layers.GlobalAveragePooling1D()(layer(tokens, tokens))
    model = keras.Model(inputs, logits)
    before = dict(vars(layer))
    network = attr.from_keras(model, preprocess=preprocess)
    maps = attr.saliency(network, images, LABELS)
    assert any("/softmax" in name for name in network.layers) == has_weights
    assert vars(layer) == before
    layer._flash_attention = False  # Processors do not have it.

    def score(images):
        return model(preprocess(images))[jnp.arange(2), LABELS].sum()

    expected = jnp.abs(jax.grad(score)(images)).max(-1)
    hand_split.assert_close(maps, expected)


def test_names_of_attention_weights_do_not_depend_on_the_process():
    inputs = keras.Input((2, 2, 3))
    tokens = keras.layers.Reshape((4, 3))(inputs)
    first = keras.layers.MultiHeadAttention(2, 3, name="first")(tokens, tokens)
    second = keras.layers.MultiHeadAttention(2, 3, name="second")(first, first)
    logits = keras.layers.GlobalAveragePooling1D()(second)
    network = attr.from_keras(keras.Model(inputs, logits))
    weights = [name for name in network.layers if "softmax" in name]
    assert weights == ["first/softmax", "second/softmax"]


def test_layers_of_channels_first():
    inputs = keras.Input((3, 24, 32))
    x = keras.layers.Conv2D(4, 3, data_format="channels_first", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D("channels_first", name="pool")(x)
    network = attr.from_keras(keras.Model(inputs, x), channels_first=True)
    assert network.layers == {"conv": (22, 30, 4), "pool": (4,)}
    assert network.hidden_layers == {}
    with pytest.raises(ValueError, match="'cnv' is unknown.*did you mean 'conv'"):
        attr.grad_cam(network, jnp.zeros((1, 24, 32, 3)), layer="cnv")


def test_operations_are_layers(images):
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(inputs)
    model = keras.Model(inputs, keras.ops.sin(pooled) + pooled)
    network = attr.from_keras(model)
    with pytest.raises(ValueError, match="input_shape"):
        _ = network.layers
    endpoints = network(images / 255)[1]
    assert len(endpoints) == 3 and list(endpoints)[0] == "pool"
    _, sine, total = endpoints.values()
    np.testing.assert_allclose(sine, np.sin(endpoints["pool"]), rtol=1e-6)
    np.testing.assert_allclose(total, sine + endpoints["pool"], rtol=1e-6)


def test_other_backends_are_refused(resnet, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="'torch'; expected 'jax'.*KERAS_BACKEND"):
        attr.from_keras(resnet)


class Headed(keras.Model):
    """A functional model whose subclass adds a layer."""

    def __init__(self):
        inputs = keras.Input((64, 64, 3))
        self.conv = keras.layers.Conv2D(4, 3, name="conv")
        super().__init__(inputs, self.conv(inputs))
        self.head = keras.layers.Dense(3, name="head")

    def call(self, x, training=None):
        return self.head(keras.ops.mean(super().call(x), (1, 2)))


def test_layers_of_a_subclass_of_a_functional_model(images):
    model = Headed()
    logits = model(images)
    actual, endpoints = attr.from_keras(model)(images)
    assert list(endpoints) == ["conv", "head"]
    hand_split.assert_close(actual, logits)
    hand_split.assert_close(endpoints["head"], logits)


class Counting(keras.layers.Layer):
    """A layer that counts its calls, and multiplies by their number."""

    def build(self, input_shape):
        options = {"initializer": "zeros", "trainable": False, "name": "calls"}
        self.calls = self.add_weight(shape=(), **options)

    def call(self, x):
        self.calls.assign(self.calls + 1)
        return x * self.calls


def test_layers_that_update_variables(images):
    """Each call of the network starts from the values when the model was adapted."""
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            Counting(name="counting"),
            keras.layers.Dense(5, name="logits"),
        ]
    )
    model.get_layer("counting").calls.assign(2.0)
    kernel = model.get_layer("logits").kernel.numpy()
    network = attr.from_keras(model)
    variables = [variable.numpy() for variable in model.variables]
    # The mean of 64 x 64 pixels is multiplied by the third call's 3.
    expected = 3 * np.abs(kernel[:, LABELS]).max(0) / 64**2
    for compute in (attr.saliency, jax.jit(attr.saliency), attr.saliency):
        maps = compute(network, images, LABELS)
        np.testing.assert_allclose(maps.min((1, 2)), expected, rtol=1e-5)
        np.testing.assert_allclose(maps.max((1, 2)), expected, rtol=1e-5)
    for variable, before in zip(model.variables, variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)
