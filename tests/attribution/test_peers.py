"""Parts of methods on a small network, compared with PyTorch and scikit-image."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform
import torch

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution import random_masks, registry, shapley
from seeflower_jax.attribution.methods.full_grad import full_gradients
from seeflower_jax.attribution.rules import with_rules
from seeflower_jax.attribution.rules.full_gradient import FullGradient
from seeflower_jax.comparison import pairs
from tests import fixtures
from tests.attribution import small_network as small
from tests.attribution.rules import networks as rule_networks

LABELS = small.LABELS
KEYS = jax.random.split(jax.random.key(3), 2)
IMAGES = small.images()
# Left, upper right and lower right.
SEGMENTS = np.zeros((2, 12, 12), np.int32)
SEGMENTS[:, :6, 4:], SEGMENTS[:, 6:, 4:] = 1, 2
SEGMENTS[1, 2:4, 2:4] = 3
FEW = fixtures.FEW_PASSES | {
    "integrated_gradients": {"steps": 5},
    "occlusion": {"window": 4, "stride": 4},
}


@pytest.fixture(scope="module")
def network():
    return small.network()


def assert_close(actual, expected, share=1e-5):
    expected = np.asarray(expected)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, atol=share * np.abs(expected).max())


def _run(method, /, *arguments, **options):
    """Run a method compiled, which is faster."""
    return jax.jit(functools.partial(method, **options))(*arguments)


def test_gradient_shap_refuses_baselines_of_another_shape(network):
    with pytest.raises(ValueError, match=r"baselines have the shape \(12, 12, 3\)"):
        attr.gradient_shap(network, IMAGES, LABELS, KEYS, baselines=IMAGES[0])


def test_layer_conductance_is_complete(network):
    white = jnp.full_like(IMAGES, 255)
    change = np.subtract(*(network(x)[0][[0, 1], LABELS] for x in (IMAGES, white)))
    options = {"layer": "first", "baseline": 255.0, "steps": 200}
    maps = _run(attr.layer_conductance, network, IMAGES, LABELS, **options)
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-2)


_BATCHED = [
    name
    for name, method in registry.METHODS.items()
    if "batch_size" in inspect.signature(method.function).parameters
]


@pytest.mark.parametrize("name", _BATCHED)
def test_maps_do_not_depend_on_the_batch_size(network, name):
    """Batches of three leave a remainder, and batches of 99 are not full."""
    method, options = registry.METHODS[name], dict(FEW.get(name, {}))
    options |= {"layer": "first"} if method.layered else {}
    options |= {"keys": KEYS} if method.random else {}
    expected, *others = (
        _run(method.function, network, IMAGES, LABELS, batch_size=size, **options)
        for size in (1, 3, 99)
    )
    for maps in others:
        assert_close(maps, expected)


def test_shapley_values_of_drawn_coalitions():
    keys, count = jax.random.split(jax.random.key(0), 1), 9
    rng = np.random.default_rng(0)
    single, pair = rng.normal(size=count), np.triu(rng.normal(size=(count, count)), 1)
    exact = single + (pair + pair.T).sum(0) / 2  # a pair shares its gain
    coalitions, weights = shapley.make_coalitions(keys, count, 300)
    members = np.asarray(coalitions[0], float)
    assert members.shape == (300, count)
    gains = members @ single + np.einsum("ki,ij,kj->k", members, pair, members)
    change = single.sum() + pair.sum()
    players = jnp.ones(count, bool)
    values = shapley.fit_values(
        coalitions[0], players, jnp.array(gains), change, weights
    )
    # With complements, a game of single players and pairs is exact.
    np.testing.assert_allclose(values, exact, atol=1e-4)
    sizes = np.bincount(members.sum(1).astype(int), minlength=count)[1:count]
    expected = 1 / (np.arange(1, count) * np.arange(count - 1, 0, -1))
    np.testing.assert_allclose(sizes / 300, expected / expected.sum(), atol=0.06)


def test_kernel_shap_of_one_segment_is_the_change(network):
    maps = attr.kernel_shap(network, IMAGES, LABELS, KEYS, cells=1)
    black = jnp.full_like(IMAGES, 127.5)
    change = np.subtract(*(network(x)[0][[0, 1], LABELS] for x in (IMAGES, black)))
    np.testing.assert_allclose(maps[:, 0, 0], change, rtol=1e-5)


@pytest.mark.parametrize("samples", [6, 254])
def test_segments_that_an_image_lacks_have_no_share(network, samples):
    """Of 8 numbers, there are 254 coalitions. Fewer samples are drawn."""
    images, segments = IMAGES[:1], SEGMENTS[:1]
    spread = np.array([1, 4, 6])[segments]
    options = {"segments": spread, "num_segments": 8, "samples": samples}
    maps = _run(attr.kernel_shap, network, images, LABELS[:1], KEYS[:1], **options)
    grey = jnp.full_like(images, 127.5)
    change = np.subtract(*(network(x)[0][0, LABELS[0]] for x in (images, grey)))
    values = [maps[spread == number] for number in (1, 4, 6)]
    np.testing.assert_allclose(sum(x[0] for x in values), change, rtol=1e-5)
    assert all(np.ptp(x) == 0 for x in values)
    if samples == 254:
        exact = _run(
            attr.kernel_shap,
            network,
            images,
            LABELS[:1],
            KEYS[:1],
            segments=segments,
        )
        assert_close(maps, exact)


@pytest.mark.parametrize(
    "segments, count, message",
    [
        (SEGMENTS[0], None, r"the shape \(12, 12\); expected \(2, 12, 12\)"),
        (SEGMENTS / 2, None, "segments are float64; expected whole numbers"),
        (SEGMENTS - 1, None, "from -1 to 2; expected whole numbers from 0 to 2"),
        (SEGMENTS, 3, "from 0 to 3; expected whole numbers from 0 to 2"),
    ],
)
def test_segments_that_make_no_sense(network, segments, count, message):
    options = {"segments": segments, "num_segments": count}
    with pytest.raises(ValueError, match=message):
        attr.feature_ablation(network, IMAGES, LABELS, **options)


def test_traced_segments_need_their_number(network):
    def ablate(segments, **options):
        return attr.feature_ablation(
            network, IMAGES, LABELS, segments=segments, **options
        )

    with pytest.raises(ValueError, match="not known inside jit; pass num_segments"):
        jax.jit(ablate)(SEGMENTS)
    traced = jax.jit(functools.partial(ablate, num_segments=4))(SEGMENTS)
    expected = jax.jit(lambda: ablate(SEGMENTS))()
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-6)


def test_superpixels_follow_colours():
    image = np.zeros((1, 16, 16, 3))
    image[:, :, 7:] = 255.0
    segments = attr.superpixels(image, count=8)
    assert segments.shape == (1, 16, 16) and segments.min() == 0
    assert not set(segments[:, :, :7].flat) & set(segments[:, :, 7:].flat)


def test_masks_are_those_of_the_authors():
    grid = np.random.default_rng(0).integers(0, 2, (3, 3)).astype(np.float32)
    size, shifts = (16, 13), (2, 4)
    cell = [-(-side // 3) for side in size]
    resized = skimage.transform.resize(
        grid, [4 * side for side in cell], order=1, mode="edge", anti_aliasing=False
    )
    expected = resized[2 : 2 + 16, 4 : 4 + 13]
    mask = random_masks._resize_grid(jnp.array(grid), shifts, size)
    np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_ablation_cam_computes_the_layers_below_once(network):
    def flops(method):
        run = jax.jit(functools.partial(method, layer="second"))
        compiled = run.lower(network, IMAGES, LABELS).compile()
        return compiled.cost_analysis()["flops"]

    # The analysis counts the body of the loop over channels once.
    assert flops(attr.ablation_cam) < 1.3 * flops(attr.grad_cam)


def test_full_gradients(network):
    """The terms by autograd, with their signs."""
    torch_network = small.torch_network()
    x, zeros = pairs.to_torch(small.preprocess(IMAGES)).requires_grad_(), []

    def add_zeros(_, __, output):
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    first, second = torch_network.layers[0], torch_network.layers[3]
    layers = [first, second, torch_network.head]
    handles = [layer.register_forward_hook(add_zeros) for layer in layers]
    logits = torch_network.head(torch_network.layers(x).mean((2, 3)))
    scores = logits[[0, 1], LABELS.tolist()]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(scores.sum(), [x, *zeros])
    of_input, of_first, of_second, of_head = (
        (gradient * bias).detach()
        for gradient, bias in zip(
            gradients,
            [
                x,
                *(
                    layer.bias.view(-1, *[1] * (g.ndim - 2))
                    for layer, g in zip(layers, gradients[1:], strict=True)
                ),
            ],
            strict=True,
        )
    )
    maps, rest = _run(full_gradients, network, IMAGES, LABELS)
    assert_close(rest, of_head.sum(1))
    np.testing.assert_allclose(
        maps.sum((1, 2)) + rest, scores.detach(), rtol=1e-5, atol=1e-5
    )
    # The second convolution has a cell for each four pixels.
    fine = of_input.sum(1) + of_first.sum(1)
    coarse = np.asarray(maps) - fine.numpy()
    totals = of_second.sum((1, 2, 3))
    np.testing.assert_allclose(coarse.sum((1, 2)), totals, rtol=1e-4, atol=1e-5)


ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "gate": lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)),
    "norm": lambda x: (x - x.mean(-1, keepdims=True)) / (1 + x.std(-1, keepdims=True)),
    "checkpoint": jax.checkpoint(jax.nn.gelu),
    "scan": lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c), None), x, length=2)[0],
    "cond": lambda x: jax.lax.cond(True, jax.nn.gelu, jnp.sin, x),
    "edges": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"),
    "largest": lambda x: x + jax.lax.top_k(x, 2)[0].mean(-1, keepdims=True),
    "quantised": rule_networks.straight_through,
    "softplus": jax.nn.softplus,
    "flipped_batch": lambda x: jnp.tanh(jnp.concatenate([x[1:], x[:1]])[::-1]),
    "finite": lambda x: jax.nn.relu(x) + jax.nn.logsumexp(x, (1, 2), keepdims=True),
    "channels_first": lambda x: jax.nn.gelu(x.transpose(0, 3, 1, 2)).transpose(
        0, 2, 3, 1
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_full_gradients_of_every_network_add_up_to_the_score(name):
    def forward(x):
        x = ACTIVATIONS[name](small.networks.convolve(x, *small.PARAMETERS["first"]))
        return x[:, 1:].max((1, 2)) @ small.PARAMETERS["head"][0] + 1

    def total(canvas):
        rules = FullGradient(canvas, lambda terms, place: terms.sum())
        return with_rules(forward, rules)(x)[jnp.arange(2), LABELS].sum()

    x = small.preprocess(IMAGES)
    scores = forward(x)[jnp.arange(2), LABELS]
    np.testing.assert_allclose(jax.jit(jax.grad(total))(0.0), scores.sum(), rtol=1e-4)
    network = attr.from_function(forward, preprocess=small.preprocess)
    maps, rest = _run(full_gradients, network, IMAGES, LABELS)
    np.testing.assert_allclose(maps.sum((1, 2)) + rest, scores, rtol=1e-4, atol=1e-4)
    assert maps.any()


def test_full_gradients_have_a_place_after_pooling():
    """Only the bias of the head has none."""
    spec = models.get_spec("vgg16", num_classes=3, width=0.1)
    variables = fixtures.random_variables(spec, 0)
    variables = jax.tree.map(lambda a: a if a.ndim > 1 else jnp.ones_like(a), variables)
    network = models.bind(spec, variables)
    images = jax.random.uniform(jax.random.key(0), (3, 32, 32, 3), maxval=255)
    compute = jax.jit(functools.partial(full_gradients, network))
    maps, rest = compute(images, jnp.arange(3))
    np.testing.assert_allclose(rest, 1, atol=1e-5 * np.abs(maps.sum((1, 2))).max())
    assert maps.any((1, 2)).all()


def test_full_gradients_keep_custom_derivatives():
    network = attr.from_function(
        lambda x: rule_networks.straight_through(x.mean((1, 2)))
    )
    maps, rest = _run(full_gradients, network, IMAGES, jnp.array([0, 2]))
    means = IMAGES.mean((1, 2))[jnp.arange(2), jnp.array([0, 2])]
    np.testing.assert_allclose(maps.sum((1, 2)), means, rtol=1e-5)
    np.testing.assert_allclose(rest, jnp.round(means) - means, atol=1e-3)


def test_full_gradients_refuse_derivatives_that_are_not_linear():
    limited = jax.custom_vjp(lambda x: x)
    limited.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))
    with pytest.raises(ValueError, match="'custom_vjp_call', because its derivative"):
        full_gradients(lambda x: (limited(x.mean((1, 2))), {}), IMAGES, LABELS % 3)


def _of_both_sides(x):
    """Average the logits of images and mirror images, which are one batch."""
    logits = small.forward(small.PARAMETERS, jnp.concatenate([x, x[:, :, ::-1]]))
    return (logits[: len(x)] + logits[len(x) :]) / 2


def test_full_gradients_do_not_depend_on_the_batch():
    network = attr.from_function(_of_both_sides, preprocess=small.preprocess)
    maps, rest = _run(full_gradients, network, IMAGES, LABELS)
    for number in range(2):
        one = slice(number, number + 1)
        expected = _run(full_gradients, network, IMAGES[one], LABELS[one])
        assert_close(maps[one], expected[0])
        assert_close(rest[one], expected[1])


def test_full_gradients_of_a_loop_over_images():
    def logits_of_one(x):
        return small.forward(small.PARAMETERS, x[None])[0]

    images, labels = small.images(3), jnp.array([3, 1, 0])
    network = attr.from_function(
        lambda x: jax.lax.map(logits_of_one, x), preprocess=small.preprocess
    )
    maps, rest = _run(full_gradients, network, images, labels)
    # Only the input has a place. The preprocessing maps 127.5 to 0.
    expected = attr.input_x_gradient(network, images, labels, baseline=127.5)
    assert_close(maps, expected)
    scores = network(images)[0][jnp.arange(3), labels]
    np.testing.assert_allclose(maps.sum((1, 2)) + rest, scores, rtol=1e-5)


def test_rise_of_bfloat16_logits_is_close(network):
    rounded = attr.from_function(lambda x: network(x)[0].astype(jnp.bfloat16))
    options = {"samples": 600, "cells": 3}
    exact, maps = (
        _run(attr.rise, f, IMAGES, LABELS, KEYS, **options) for f in (network, rounded)
    )
    np.testing.assert_allclose(maps, exact, atol=0.05 * np.ptp(exact))
