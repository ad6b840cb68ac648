"""Test VGG16 and VGG19: shapes, heads, and parity with Keras."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from seeflower_jax import models
from seeflower_jax.models import classifier
from seeflower_jax.pretrained import keras_h5
from tests import fixtures, harness
from tests.models import parity


@pytest.mark.parametrize(
    "name,convs,parameters", [("vgg16", 13, 14_714_688), ("vgg19", 16, 20_024_384)]
)
def test_endpoints_and_size(name, convs, parameters):
    spec = models.get_spec(name, num_classes=102)
    variables = models.shapes(spec)
    leaves = jax.tree.leaves(variables["params"]["backbone"])
    assert len(leaves) == 2 * convs
    assert sum(leaf.size for leaf in leaves) == parameters
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
    logits, endpoints = jax.eval_shape(
        lambda v, x: models.apply(spec, v, x), variables, images
    )
    assert logits.shape == (2, 102) and spec.cam_layer in endpoints
    sides = {n: e.shape[1:] for n, e in endpoints.items() if n.endswith("_pool")}
    assert sides == {
        "block1_pool": (112, 112, 64),
        "block2_pool": (56, 56, 128),
        "block3_pool": (28, 28, 256),
        "block4_pool": (14, 14, 512),
        "block5_pool": (7, 7, 512),
    }


@pytest.mark.parametrize(
    "pooling,pooled,inputs",
    [
        ("average", (), 51),
        ("root_average", ("block3_pool", "block5_pool"), 26 + 51),
        ("bilinear", ("block5_conv3",), 51 * 51),
        ("flatten", (), 9 * 51),
    ],
)
def test_heads(pooling, pooled, inputs):
    spec = models.get_spec(
        "vgg16",
        num_classes=7,
        width=0.1,
        input_size=96,
        pooling=pooling,
        pooled=pooled,
        hidden=[20, 10],
        dropout=0.6,
    )
    variables = fixtures.random_variables(spec, 0)
    shapes = {n: v["kernel"].shape for n, v in variables["params"]["head"].items()}
    assert shapes == {"fc1": (inputs, 20), "fc2": (20, 10), "logits": (10, 7)}
    images = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3))
    logits, endpoints = models.apply(spec, variables, images)
    features = models.features(spec, variables, images)
    if pooling == "root_average":
        means = [endpoints[name].mean((1, 2)) for name in pooled]
        roots = [np.sqrt(mean + 0.25) for mean in means]
        sizes = [np.linalg.norm(root, axis=-1, keepdims=True) for root in roots]
        wanted = [
            root * np.sqrt(root.shape[1]) / size
            for root, size in zip(roots, sizes, strict=True)
        ]
        np.testing.assert_allclose(features, np.concatenate(wanted, -1), rtol=1e-4)
    alone = models.apply_head(spec, variables, features)
    np.testing.assert_allclose(alone, logits, rtol=1e-4, atol=1e-6)
    dropped = models.apply_head(
        spec, variables, features, rngs={"dropout": jax.random.key(1)}
    )
    assert not np.allclose(dropped, logits)
    assert models.ModelSpec(**spec.to_dict()) == spec


def test_bilinear_pooling():
    x = np.random.default_rng(0).normal(0, 3, (2, 5, 4, 6)).astype(np.float32)
    pooled = np.asarray(classifier.POOLING["bilinear"](x))
    for picture, features in zip(x, pooled, strict=True):
        mean = sum(np.outer(place, place) for row in picture for place in row) / 20
        roots = np.sign(mean) * np.sqrt(np.abs(mean))
        wanted = (roots / np.linalg.norm(roots)).ravel()
        np.testing.assert_allclose(features, wanted, atol=2e-3)
    slope = jax.grad(lambda x: classifier.POOLING["bilinear"](x).sum())(0 * x)
    assert np.isfinite(slope).all()


def test_root_average_of_what_a_tap_makes_negative():
    spec = models.get_spec(
        "vgg16", num_classes=7, width=0.02, input_size=32, pooling="root_average"
    )
    variables = fixtures.random_variables(spec, 0)

    def total(tap):
        images = jnp.full((1, 32, 32, 3), 99.0)
        return models.apply(spec, variables, images, {"block5_pool": tap})[0].sum()

    logits, gradient = jax.value_and_grad(total)(jnp.full((1, 1, 1, 10), -1e3))
    assert np.isfinite(logits) and np.isfinite(gradient).all()


def test_head_alone_is_initialised_as_with_the_network():
    spec = models.get_spec(
        "vgg16", num_classes=7, width=0.02, input_size=32, hidden=(20,)
    )
    key = jax.random.key(3)
    whole, alone = models.init(spec, key), models.init_head(spec, key)
    harness.assert_trees_equal(whole["params"]["head"], alone["params"]["head"])
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), models.shapes(spec))
    assert found == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), whole)


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_parity_with_keras_on_real_weights_and_pictures(assets, name):
    path = parity.weight_file(assets, name)
    build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}
    keras_model = build[name](weights=str(path), include_top=False)
    endpoints = [f"block{i}_pool" for i in range(1, 6)] + ["block1_conv1"]
    endpoints.append(models.get_spec(name).cam_layer)
    errors = parity.errors(
        name, path, keras_model, parity.pictures(assets, 224), endpoints
    )
    assert max(errors.values()) < 1e-4, errors


def test_file_of_the_other_vgg_lists_what_differs(assets):
    layers = keras_h5.read(parity.weight_file(assets, "vgg19"))
    with pytest.raises(keras_h5.WeightFileError, match="block4_conv4 is not expected"):
        keras_h5.convert_vgg((2, 2, 3, 3, 3), layers)
    layers.pop("block1_conv2")
    layers["block2_conv1"].pop()
    layers["fc1"] = [np.zeros((2, 2)), np.zeros(2)]
    with pytest.raises(keras_h5.WeightFileError) as caught:
        keras_h5.convert_vgg((2, 2, 4, 4, 4), layers)
    message = str(caught.value)
    assert "block1_conv2 is missing" in message and "fc1" not in message
    assert "block2_conv1 has 1 arrays, expected kernel and bias" in message
