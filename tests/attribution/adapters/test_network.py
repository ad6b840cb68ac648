"""Images, outputs and layers of all adapted networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)


def pool(images):
    return checkpoint_name(images[:, ::2, ::2], "half").mean((1, 2))


def test_images_of_bytes_are_preprocessed_as_floats():
    network = attr.from_function(pool, preprocess=lambda x: x / 255 - 1)
    logits, endpoints = network(jnp.array(IMAGES))
    expected = IMAGES[:, ::2, ::2].astype(np.float32) / 255 - 1
    np.testing.assert_allclose(endpoints["half"], expected, atol=1e-6)
    np.testing.assert_allclose(logits, expected.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("single", [False, True])
def test_channels_first(single):
    def function(x):
        assert x.shape[-3:] == (3, 6, 8)
        return checkpoint_name(x[..., ::2, ::2], "half").mean((-1, -2))

    images = jnp.array(IMAGES, jnp.float32)
    options = {"channels_first": True, "single": single}
    network = attr.from_function(function, **options)
    endpoint = network(images)[1]["half"]
    np.testing.assert_array_equal(endpoint, images[:, ::2, ::2])
    tap = jnp.zeros_like(endpoint).at[1, 2, 3, 0].set(12.0)
    gain = network(images, {"half": tap})[0] - network(images)[0]
    np.testing.assert_allclose(gain, [[0, 0, 0], [1, 0, 0]], atol=1e-4)
    assert network.layers == {"half": (3, 4, 3)}


def test_outputs_that_are_not_logits():
    def function(images):
        return {"logits": pool(images), "features": images}

    network = attr.from_function(function, output=lambda y: y["logits"])
    np.testing.assert_allclose(network(IMAGES)[0], attr.from_function(pool)(IMAGES)[0])
    for f in (function, lambda x: x, lambda x: (pool(x),), lambda x: None):
        with pytest.raises(ValueError, match="expected logits.*output=lambda"):
            attr.from_function(f)(IMAGES)


def test_layers_need_the_shape_of_images():
    network = attr.from_function(pool)
    with pytest.raises(ValueError, match="input_shape=.*outside of jit"):
        _ = network.layers
    network(IMAGES)
    assert network.layers == {"half": (3, 4, 3)}
    network(IMAGES[:, :4])
    assert network.layers == {"half": (3, 4, 3)}
    assert attr.from_function(pool, input_shape=(4, 4, 3)).layers == {"half": (2, 2, 3)}


def test_layers_are_in_the_order_of_the_computation():
    def function(images):
        for name in ("b", "c", "a"):
            images = checkpoint_name(images + 1, name)
        return pool(images)

    for single in (False, True):
        f = (lambda x: function(x[None])[0]) if single else function
        network = attr.from_function(f, single=single, input_shape=(6, 8, 3))
        assert list(network.layers) == ["b", "c", "a", "half"]


def test_hidden_layers():
    def function(x):
        return jax.lax.cond(True, pool, lambda x: x.mean((1, 2)), x)

    for single in (False, True):
        f = (lambda x: function(x[None])[0]) if single else function
        network = attr.from_function(f, single=single, input_shape=(6, 8, 3))
        assert network.hidden_layers == {"half": "cond"} and network.layers == {}
        for method in (attr.grad_cam, attr.score_cam):
            with pytest.raises(ValueError, match="layer 'half' is inside cond; layers"):
                method(network, IMAGES, layer="half")


def test_images_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"\(6, 8, 3\); expected \[n, h, w, 3\]"):
        attr.from_function(pool)(IMAGES[0])


@pytest.mark.parametrize("targets", [None, np.array([0, 1]), lambda logits: logits])
@pytest.mark.parametrize("method", ["saliency", "occlusion", "input_x_gradient"])
def test_functions_that_return_logits_alone_are_refused(method, targets):
    def function(images):
        return images.mean((1, 2))

    images = jnp.ones((2, 64, 64, 3))
    with pytest.raises(ValueError, match=r"\(3,\); expected \[n, c\].* from_function"):
        getattr(attr, method)(function, images, targets)
    with pytest.raises(ValueError, match=r"\(3,\); expected \[n, c\].* from_function"):
        attr.explain(function, images, [method], targets)


@pytest.mark.parametrize("layer", ["pool", "head"])
def test_layers_of_a_function_of_logits_alone_are_refused(layer):
    images = jnp.ones((2, 64, 64, 3))
    with pytest.raises(ValueError, match=r"returns \[2, 3\]; .* from_function"):
        attr.grad_cam(lambda images: images.mean((1, 2)), images, layer=layer)


@pytest.mark.parametrize(
    "adapt,given",
    [
        (lambda: attr.from_linen(nnx.BatchNorm(2, rngs=nnx.Rngs(0)), {}), "BatchNorm"),
        (lambda: attr.from_linen(nn.Dense, {}), "<class .*Dense"),
        (lambda: attr.from_nnx(nn.Dense(2)), "flax.linen.linear.Dense"),
        (lambda: attr.from_nnx(pool), "function"),
        (lambda: attr.from_keras(nn.Dense(2)), "flax.linen.linear.Dense"),
    ],
)
def test_models_of_another_framework_are_refused(adapt, given):
    with pytest.raises(TypeError, match=f"takes an object of <class .*{given}"):
        adapt()


def test_variables_are_arguments_of_jit():
    network = attr.from_function(lambda scale, x: scale * pool(x), jnp.array(2.0))
    program = jax.jit(attr.saliency).lower(network, jnp.array(IMAGES, jnp.float32))
    assert len(jax.tree.leaves(program.in_avals)) == 2
    maps = jax.jit(attr.saliency)(network, jnp.array(IMAGES, jnp.float32))
    np.testing.assert_allclose(maps.max((1, 2)), 2 / 12, rtol=1e-6)


def test_a_call_leaves_the_tree_of_a_network_as_it_was():
    """A function of the network would be compiled again if its tree changed."""
    network = attr.from_function(pool)
    before = jax.tree.structure(network)
    network(jnp.array(IMAGES))
    assert network.layers == {"half": (3, 4, 3)}
    assert jax.tree.structure(network) == before


def test_preprocessing_in_place_leaves_images_as_they_were():
    def preprocess(images):
        images /= 127.5  # In place, if the images are a NumPy array.
        images -= 1
        return images

    images = IMAGES.astype(np.float32)
    network = attr.from_function(pool, preprocess=preprocess)
    expected = IMAGES[:, ::2, ::2].astype(np.float32).mean((1, 2)) / 127.5 - 1
    for _ in range(2):
        np.testing.assert_allclose(network(images)[0], expected, atol=1e-5)
        np.testing.assert_array_equal(images, IMAGES)


def test_layers_below_a_stopped_gradient():
    """Ablation needs no gradient: a channel that a logit reads alone is its score."""

    def function(images):
        half = checkpoint_name(images[:, ::2, ::2], "half")
        return jax.lax.stop_gradient(half).mean((1, 2))

    network = attr.from_function(function)
    images, labels = jnp.array(IMAGES, jnp.float32), np.array([0, 2])
    maps = attr.ablation_cam(network, images, labels, layer="half", align="stretch")
    own = jnp.stack([images[0, ::2, ::2, 0], images[1, ::2, ::2, 2]])
    expected = jax.image.resize(own, maps.shape, "bilinear")
    np.testing.assert_allclose(maps, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="layer 'half' only through stop_gradient, so"):
        attr.grad_cam(network, images, labels, layer="half")
