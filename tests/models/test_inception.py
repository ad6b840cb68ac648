"""Test Inception-v3: shapes, modes, taps, and parity with Keras."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from seeflower_jax import models
from tests import fixtures
from tests.models import parity

SHAPES = {
    "Conv2d_1a_3x3": (149, 149, 32),
    "Conv2d_2a_3x3": (147, 147, 32),
    "Conv2d_2b_3x3": (147, 147, 64),
    "MaxPool_3a_3x3": (73, 73, 64),
    "Conv2d_3b_1x1": (73, 73, 80),
    "Conv2d_4a_3x3": (71, 71, 192),
    "MaxPool_5a_3x3": (35, 35, 192),
    "mixed0": (35, 35, 256),
    "mixed1": (35, 35, 288),
    "mixed2": (35, 35, 288),
    "mixed3": (17, 17, 768),
    "mixed4": (17, 17, 768),
    "mixed5": (17, 17, 768),
    "mixed6": (17, 17, 768),
    "mixed7": (17, 17, 768),
    "mixed8": (8, 8, 1280),
    "mixed9": (8, 8, 2048),
    "mixed10": (8, 8, 2048),
}
MIXED = [f"mixed{i}" for i in range(11)]


@pytest.fixture(scope="module")
def narrow():
    spec = models.get_spec(
        "inception_v3", num_classes=7, width=fixtures.NARROW_WIDTH, dropout=0.5
    )
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3))
    return spec, variables, images.astype(np.float32)


def test_endpoints_and_size():
    spec = models.get_spec("inception_v3", num_classes=102)
    variables = models.shapes(spec)
    images = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.uint8)
    logits, endpoints = jax.eval_shape(
        lambda v, x: models.apply(spec, v, x), variables, images
    )
    blocks = {k: v.shape[1:] for k, v in endpoints.items() if "_branch" not in k}
    assert blocks == SHAPES
    assert len(endpoints) - len(blocks) == 89  # the convolutions within the blocks
    assert logits.shape == (2, 102)
    backbone = variables["params"]["backbone"], variables["batch_stats"]["backbone"]
    assert sum(leaf.size for leaf in jax.tree.leaves(backbone)) == 21_802_784


def test_inference_is_pure_and_training_is_asked_for(narrow):
    spec, variables, images = narrow
    logits, _ = models.apply(spec, variables, images)
    np.testing.assert_array_equal(logits, models.apply(spec, variables, images)[0])
    dropped, _ = models.apply(
        spec, variables, images, rngs={"dropout": jax.random.key(1)}
    )
    assert not np.allclose(logits, dropped)
    _, updated = models.apply(spec, variables, images, mutable=["batch_stats"])
    before = variables["batch_stats"]["backbone"]["mixed0_branch1x1"]["bn"]["mean"]
    after = updated["batch_stats"]["backbone"]["mixed0_branch1x1"]["bn"]["mean"]
    assert not np.allclose(before, after)


def test_head_alone_equals_whole(narrow):
    spec, variables, images = narrow
    whole, _ = models.apply(spec, variables, images)
    features = models.features(spec, variables, images)
    np.testing.assert_allclose(
        models.apply_head(spec, variables, features), whole, rtol=1e-5, atol=1e-6
    )


def test_gradient_of_a_tap_is_the_gradient_at_its_layer(narrow):
    spec, variables, images = narrow
    _, endpoints = models.apply(spec, variables, images)
    taps = {"mixed10": jnp.zeros_like(endpoints["mixed10"])}
    score = lambda taps: models.apply(spec, variables, images, taps)[0][:, 3].sum()  # noqa: E731
    found = jax.grad(score)(taps)["mixed10"]
    # The layers above mixed10 are a mean over the positions and a dense layer.
    kernel = variables["params"]["head"]["logits"]["kernel"][:, 3]
    expected = np.broadcast_to(kernel / np.prod(found.shape[1:3]), found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_bfloat16_computes_float32_logits(narrow):
    spec, variables, images = narrow
    exact, _ = models.apply(spec, variables, images)
    half = models.get_spec(
        "inception_v3", num_classes=7, width=spec.width, dtype="bfloat16"
    )
    rough, endpoints = models.apply(half, variables, images)
    assert endpoints["mixed10"].dtype == jnp.bfloat16 and rough.dtype == jnp.float32
    assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'inception_v3'"):
        models.get_spec("inception_v2")


def test_parity_with_keras_on_real_weights_and_pictures(assets):
    path = parity.weight_file(assets, "inception_v3")
    images = parity.pictures(assets, 299)
    keras_model = keras.applications.InceptionV3(
        weights=str(path), include_top=False, input_shape=(299, 299, 3)
    )
    errors = parity.errors("inception_v3", path, keras_model, images, MIXED)
    assert max(errors.values()) < 1e-4, errors


def test_parity_with_keras_on_random_batch_statistics(tmp_path):
    side = 147
    keras_model = keras.applications.InceptionV3(
        weights=None, include_top=False, input_shape=(side, side, 3)
    )
    rng = np.random.default_rng(0)
    layers = []
    for layer in keras_model.layers:  # in Keras' order, not in order of creation
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.get_weights()[0].shape
            layer.set_weights(
                [
                    rng.normal(0, 0.3, shape),
                    rng.normal(0, 0.3, shape),
                    rng.uniform(0.5, 2, shape),
                ]
            )
        arrays = [(weight.path, np.asarray(weight)) for weight in layer.weights]
        layers.append((layer.name, arrays))
    fixtures.write_keras_h5(tmp_path / "random.h5", layers)
    images = rng.uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    path = tmp_path / "random.h5"
    errors = parity.errors("inception_v3", path, keras_model, images, MIXED)
    assert max(errors.values()) < 1e-4, errors
